-- sender.lua FILE [CHAIN KEY]: sends FILE to the first client, in a coroutine, and says by how much its memory grew.
local socket = require "psocket"
local function read(path)
  local f = assert(io.open(path, "rb"))
  local text = f:read("*a")
  f:close()
  return text
end
local function resident()
  local f = io.open("/proc/self/statm")
  if not f then return 0 end
  local _, pages = f:read("*n", "*n")
  f:close()
  return pages * 4
end
local data = read(arg[1])
local certs = arg[2] and { { chain = read(arg[2]), private_key = read(arg[3]) } }
local sched = socket.scheduler()
local ticks = 0
local listener = assert(socket.listen("127.0.0.1:0"))
io.write(select(2, listener:getlocal()), "\n")
io.flush()
sched:add(function()
  local s = assert(listener:accept())
  if certs then assert(s:starttls(certs)) end
  local done
  sched:add(function()
    while not done do
      sched:sleep(0.01)
      ticks = ticks + 1
    end
  end)
  collectgarbage()
  local before = resident()
  assert(s:send(data))
  io.write(resident() - before, " KB more\n", ticks, " ticks meanwhile\n")
  done = true
  s:close()
end)
sched:run()
