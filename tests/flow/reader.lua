-- reader.lua PORT [CA]: starts late, reads slowly, pipes what comes to sha256sum; blocking.
local socket = require "psocket"
local s = assert(socket.connect("127.0.0.1", tonumber(arg[1])))
if arg[2] then assert(s:starttls("localhost", { ca_file = arg[2] })) end
local sched = socket.scheduler()
sched:sleep(0.3)
local out = assert(io.popen("sha256sum", "w"))
local got, pause = 0, 0
while true do
  local chunk, message, name = s:recv()
  if not chunk then
    if name ~= "CLOSED" then error(message) end
    break
  end
  out:write(chunk)
  got = got + #chunk
  if got - pause > 1048576 then
    pause = got
    sched:sleep(0.01)
  end
end
out:close()
