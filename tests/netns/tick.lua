-- In a namespace where slow.test takes two seconds to resolve: one coroutine connects to it, another ticks every 10 ms.
local socket = require "psocket"
local listener = assert(socket.listen("127.0.0.1:0"))
local _, port = listener:getlocal()
local sched = socket.scheduler()
local ticks, worst, connected, took = 0, 0, nil, nil
sched:add(function()
  local start = socket.now()
  connected = assert(socket.connect("slow.test", port))
  took = socket.now() - start
end)
sched:add(function()
  local last = socket.now()
  while not connected do
    sched:sleep(0.01)
    local now = socket.now()
    worst = math.max(worst, now - last)
    last = now
    ticks = ticks + 1
    assert(ticks < 1000, "it never connected")
  end
end)
sched:run()
print(("connected after %.3f s; %d ticks meanwhile, at most %.3f s apart"):format(took, ticks, worst))
assert(took >= 1.9 and ticks > 100 and worst < 0.5)
