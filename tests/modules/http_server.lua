-- http_server.lua [CHAIN KEY]: a server on examples/http.lua for tests/modules/http.sh; echoes what it is asked.
local psocket = require "psocket"
local http = require "http"
local sched = psocket.scheduler()
local certificates
if arg[2] then
  certificates = { {} }
  for i, field in ipairs { "chain", "private_key" } do
    local f = assert(io.open(arg[i], "rb"))
    certificates[1][field] = f:read("*a")
    f:close()
  end
end
sched.errorfunc = function(e) io.stderr:write(tostring(e), "\n") end
local listener = assert(psocket.bind(sched, "127.0.0.1:0", function(s)
  if certificates and not s:starttls(certificates) then return end
  http.serve(s, function(request)
    if request.path == "/big" then return ("0123456789abcdef"):rep(312500) end
    if request.path == "/pieces" then
      local n = 0
      return 200, { ["Content-Type"] = "application/octet-stream" }, function()
        n = n + 1
        if n <= 50 then return ("0123456789abcdef"):rep(6250) end
      end
    end
    if request.path == "/away" then return 302, { Location = "/home" } end
    return 200, { ["X-Query"] = request.query }, request.method .. " " .. request.path .. " " .. #request.body .. "\n" .. request.body
  end, { max = 10000000 })
end))
print("port " .. select(2, listener:getlocal()))
io.stdout:flush()
sched:run()
