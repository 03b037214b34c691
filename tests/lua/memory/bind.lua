-- What memory_host.c runs besides: a server that lacks memory once goes on serving; see memory_script.lua.
local psocket = require "psocket"
if jit and N > 0 then jit.off() end -- LuaJIT's compiled code crashes when its own allocations fail
local sched = psocket.scheduler()
sched.errorfunc = function() end
local l = assert(psocket.bind(sched, "127.0.0.1:0", function(s) s:send("hi") s:recv { timeout = 1 } end))
local _, port = l:getlocal()

local function served(seconds)
  local c = assert(psocket.connect("127.0.0.1", port, { timeout = 5 }))
  local stop = psocket.now() + seconds
  repeat pcall(sched.step, sched, 0.005) until c:peek() or psocket.now() > stop
  local got = c:peek()
  c:close()
  return got
end

sched:step(0)
if N > 0 then arm(N, M) end
pcall(served, 0.2)
arm()
assert(served(5) == "hi", "the server has died")
assert(served(5) == "hi", "the server has died since")
