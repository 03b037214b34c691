-- A server with bind, for idle.sh: prints its port, and serves until it is killed.
local socket = require "psocket"
local sched = socket.scheduler()
local count = 0
local listener = assert(socket.bind(sched, "127.0.0.1:0", function(s)
  count = count + 1
  if count == tonumber(arg[1]) then io.write("all here\n"); io.flush() end
  local chunk = s:recv() -- (a call that yields cannot be the iterator of a for loop in Lua 5.1)
  while chunk do
    s:send(chunk)
    chunk = s:recv()
  end
end))
io.write(select(2, listener:getlocal()), "\n")
io.flush()
sched:run()
