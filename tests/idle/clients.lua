-- Opens arg[2] connections to port arg[1], echoes once on each, says so, and holds them until it is killed.
local socket = require "psocket"
local port, n, open = tonumber(arg[1]), tonumber(arg[2]), {}
for i = 1, n do
  local s = assert(socket.connect("127.0.0.1", port))
  s:send("x")
  assert(s:recv() == "x")
  open[i] = s
end
io.write("open\n")
io.flush()
socket.scheduler():sleep(60)
