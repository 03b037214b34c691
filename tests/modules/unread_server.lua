-- unread_server.lua bind|finish [CHAIN KEY]: answers 1,000,045 bytes to whatever comes, without reading any of it.
local psocket = require "psocket"
local sched = psocket.scheduler()
local function contents(name)
  local f = assert(io.open(name, "rb"))
  local text = f:read("*a")
  f:close()
  return text
end
local certificates = arg[3] and { { chain = contents(arg[2]), private_key = contents(arg[3]) } }
local answer = ("HTTP/1.0 200 OK\r\nContent-Length: 1000000\r\n\r\n" .. ("x"):rep(1000000)):sub(1, 1000043) .. "\r\n"
local function serve(s)
  if certificates and not s:starttls(certificates) then return end
  local ok, message = s:send(answer)
  print(ok and "sent" or message)
  io.stdout:flush()
end
local listener
if arg[1] == "bind" then
  listener = psocket.bind(sched, "127.0.0.1:0", serve)
else
  listener = assert(psocket.listen "127.0.0.1:0")
  sched:add(function()
    while true do
      local s = listener:accept()
      sched:add(function()
        serve(s)
        s:finish()
        print("finished")
        io.stdout:flush()
      end)
    end
  end)
end
print("port " .. select(2, listener:getlocal()))
io.stdout:flush()
sched:run()
