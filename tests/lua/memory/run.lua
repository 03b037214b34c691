-- What memory_host.c runs besides, once: with an errorfunc, no turn raises for any one lack of memory.
local psocket = require "psocket"
if jit and N > 0 then jit.off() end -- LuaJIT's compiled code crashes when its own allocations fail
local sched = psocket.scheduler()
sched.errorfunc = function() end
local ended = 0
local l = assert(psocket.bind(sched, "127.0.0.1:0", function(s)
  s:send("hi")
  s:recv { timeout = 0.1 }
  ended = ended + 1
  return 1 -- what join is to be told
end))
local _, port = l:getlocal()
sched:step(0)
sched:add(function()
  sched:sleep(0.001)
  if N > 0 then arm(N, M) end
  local c = psocket.connect("127.0.0.1", port, { timeout = 0.1 })
  if c then c:recv { timeout = 0.05 } c:close() end
  ended = ended + 1
  return "x"
end)
local stop = psocket.now() + 0.15
while ended < 2 and psocket.now() < stop do
  if not pcall(sched.step, sched, 0.01) then error("the turn raised", 0) end
end
if not pcall(sched.step, sched, 0.01) then error("the turn raised at last", 0) end
arm()
