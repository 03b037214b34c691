-- rings.lua: tasks that wait in queues and for each other, whose coroutines end or go on elsewhere.
local t = require "check"
local psocket = t.psocket
local check, equal, fails, raises = t.check, t.equal, t.fails, t.raises

local function turns(sched, n)
  for _ = 1, n do sched:step(0.002) end
end

t.test("a queue that only its waiting coroutine knows is collected", function()
  for _, how in ipairs { "close", "by hand", "error by hand", "removed" } do
    for _ = 1, 20 do
      local sched, ran = psocket.scheduler(), 0
      local co = coroutine.create(function()
        psocket.queue():pop { timeout = 0.003 }
        if how == "error by hand" then error("x") end
      end)
      sched:add(co)
      if how == "close" and coroutine.close then coroutine.close(co)
      elseif how == "removed" then sched:remove(co)
      else
        local over = psocket.now() + 0.004
        repeat until psocket.now() > over
        coroutine.resume(co)
      end
      t.collect()
      local junk = {}
      for i = 1, 100 do junk[i] = psocket.queue() end
      sched:add(function() sched:sleep(0.001) ran = ran + 1 end)
      turns(sched, 3)
      sched:remove(co)
      sched:add(function() sched:sleep(0.001) ran = ran + 1 end)
      turns(sched, 6)
      check(#junk == 100)
      equal(ran, 2, how)
    end
  end
end)

t.test("a wait that could not yield, twice", function()
  for _, what in ipairs { "join", "pop" } do
    local sched, q, steps = psocket.scheduler(), psocket.queue(), {}
    local other = sched:add(function() sched:sleep(0.02) end)
    local function wait() if what == "join" then sched:join(other) else q:pop { timeout = 0.001 } end end
    sched:add(function()
      for i = 1, 2 do
        pcall(string.gsub, "x", "x", wait) -- before Lua 5.4 nothing tells that a yield will fail
        steps[i] = true
      end
      if what == "pop" then equal(q:pop(), 1) end
      sched:sleep(0.005)
      steps[3] = true
    end)
    sched:add(function() sched:sleep(0.01) q:push(1) end)
    sched:run()
    equal(#steps, 3, what)
  end
end)

t.test("pop outside of tasks waits as long as it may", function()
  local q = psocket.queue()
  local began = psocket.now()
  fails("TIMEOUT", q:pop { timeout = 0.02 })
  check(psocket.now() - began > 0.015)
  raises("for ever", q.pop, q)
  q:push(5)
  equal(q:pop(), 5)
end)

t.test("a sleep that ends within a millisecond does not spin", function()
  local sched, n = psocket.scheduler(), 0
  sched:add(function() for _ = 1, 5 do sched:sleep(0.0045) end end)
  while sched:step(1) do n = n + 1 end
  check(n <= 10, n)
  local cpu = os.clock()
  sched:add(function() for _ = 1, 30 do sched:sleep(0.0101) end end)
  sched:run()
  check(os.clock() - cpu < 0.1, os.clock() - cpu)
end)

t.test("a scheduler that is taken out while it is made", function()
  local calm = t.eager()
  for k = 1, 30 do
    local sched, n = psocket.scheduler(), 0
    local function take()
      n = n + 1
      if n >= k then rawset(sched, "_core", nil) end
      if n < k + 3 then t.finalizer(take) end
    end
    t.finalizer(take)
    pcall(sched.add, sched, function() end)
  end
  calm()
  collectgarbage()
  check(true)
end)

t.finish()
