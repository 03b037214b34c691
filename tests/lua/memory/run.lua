-- What memory_host.c runs besides: with an errorfunc a lack of memory in one task does not end run, and with it all others.
local psocket = require "psocket"
if jit and N > 0 then jit.off() end -- LuaJIT's compiled code crashes when its own allocations fail
local sched = psocket.scheduler()
sched.errorfunc = function() end
local l = assert(psocket.bind(sched, "127.0.0.1:0", function(s) s:send("hi") s:recv { timeout = 1 } return "served" end))
local _, port = l:getlocal()
local served
sched:step(0)
sched:add(function() -- when all is well again
  sched:sleep(0.05)
  arm()
  local c = psocket.connect("127.0.0.1", port, { timeout = 5 })
  served = c and c:recv()
  if c then c:close() end
  l:close()
end)
sched:add(function()
  sched:sleep(0.005)
  if N > 0 then arm(N, M) end
  local c = psocket.connect("127.0.0.1", port, { timeout = 0.1 })
  if c then c:recv { timeout = 0.05 } c:close() end
  if not c then error {} end
  return "asked"
end)
local ok = pcall(sched.run, sched)
arm()
assert(ok, "run has ended")
assert(served == "hi", "the server has died")
