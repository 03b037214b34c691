-- What memory_host.c runs besides: where a coroutine that is dead is resumed and there is no memory for saying so, Lua
-- jumps over all coroutines to the main one, and over a turn of the scheduler. What it was doing must not be remembered
-- once it is gone.
local psocket = require "psocket"
if jit then return end -- LuaJIT itself crashes there, without psocket, too
local dead = coroutine.create(function() end)
coroutine.resume(dead)

local function jump()
  local sched = psocket.scheduler()
  for _ = 1, 3 do sched:add(function() sched:sleep(0.001) end) end
  sched:add(function()
    sched:sleep(0.001)
    collectgarbage()
    if N == 1 then arm(1, 4) end
    coroutine.resume(dead)
  end)
  pcall(sched.run, sched)
  arm()
end

jump()
collectgarbage()
collectgarbage()
local a, b = psocket.pair()
local co = coroutine.wrap(function()
  a:send "x"
  return a:recv()
end)
co()
b:send "answer"
assert(co() == "answer")
local sched, got = psocket.scheduler(), nil
sched:add(function()
  sched:sleep(0.001)
  a:send "question"
  got = b:recv()
end)
sched:run()
assert(got == "x" or got == "question" or got == "xquestion", got)
