-- websocket_server.lua [CHAIN KEY]: an echo on examples/websocket.lua for tests/modules/websocket.sh; serves page.html of
-- the folder in PAGES to those who do not ask for a WebSocket.
local psocket = require "psocket"
local http = require "http"
local websocket = require "websocket"
local sched = psocket.scheduler()
local function contents(name)
  local f = assert(io.open(name, "rb"))
  local text = f:read("*a")
  f:close()
  return text
end
local conversations = 0
local certificates = arg[2] and { { chain = contents(arg[1]), private_key = contents(arg[2]) } }
sched.errorfunc = function(e) io.stderr:write(tostring(e), "\n") end
local listener = assert(psocket.bind(sched, "127.0.0.1:0", function(s)
  if certificates and not s:starttls(certificates) then return end
  http.serve(s, function(request)
    if request.path == "/page" then return 200, { ["Content-Type"] = "text/html; charset=utf-8" }, contents(os.getenv("PAGES") .. "/page.html") end
    if request.path == "/wait" then -- holds up the page's load event until its conversation is over
      local before = conversations
      for _ = 1, 500 do
        if conversations > before then break end
        sched:sleep(0.02)
      end
      return 404, nil, "now"
    end
    local ws = websocket.accept(s, request, { protocols = { "echo" } })
    while ws do
      local data, kind, _, code = ws:receive()
      if not data then
        conversations = conversations + 1
        print("closed " .. tostring(code) .. " " .. tostring(kind))
        io.stdout:flush()
        return
      end
      ws:send(data, kind)
    end
  end)
end))
print("port " .. select(2, listener:getlocal()))
io.stdout:flush()
sched:run()
