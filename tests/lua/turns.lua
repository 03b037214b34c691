-- Turns within turns: what a turn calls that is no task may step the scheduler, too.
local t = require "check"
local psocket, check, equal = t.psocket, t.check, t.equal

local function drain(sched)
  local stop = psocket.now() + 5
  while sched:step(0.05) do
    if psocket.now() > stop then error "it does not end" end
  end
end

t.test("errorfunc steps", function()
  for _, tasks in ipairs { 1, 2, 10 } do
    local sched, failed, slept = psocket.scheduler(), 0, 0
    sched.errorfunc = function()
      failed = failed + 1
      sched:step(0)
    end
    for i = 1, tasks do
      sched:add(function()
        sched:sleep(0.005)
        error(i)
      end)
      sched:add(function()
        sched:sleep(0.005)
        slept = slept + 1
        sched:sleep(0.005)
        slept = slept + 1
      end)
    end
    drain(sched)
    equal(failed, tasks)
    equal(slept, 2 * tasks)
  end
end)

t.test("errorfunc runs it to the end", function()
  local sched, failed = psocket.scheduler(), 0
  sched.errorfunc = function()
    failed = failed + 1
    sched:run()
  end
  for i = 1, 5 do
    sched:add(function()
      sched:sleep(0.002 * i)
      error(i)
    end)
  end
  drain(sched)
  equal(failed, 5)
end)

t.test("errorfunc closes it", function()
  local sched = psocket.scheduler()
  sched.errorfunc = function() sched:close() end
  for i = 1, 3 do
    sched:add(function()
      sched:sleep(0.002)
      error(i)
    end)
  end
  check(pcall(sched.run, sched))
end)

t.test("what an error leaves over is done, and does not keep a foreign loop awake", function()
  local sched, done = psocket.scheduler(), 0
  for i = 1, 6 do
    sched:add(function()
      sched:sleep(0.002)
      if i % 2 == 1 then error "one of them" end
      done = done + 1
    end)
  end
  sched:add(function() sched:sleep(30) end)
  local stop, errors = psocket.now() + 5, 0
  while (done < 3 or errors < 3) and psocket.now() < stop do
    if not pcall(sched.step, sched, 0.05) then errors = errors + 1 end
  end
  equal(done, 3)
  equal(errors, 3)
  sched:step(0)
  local _, seconds = sched:getfd()
  check(seconds and seconds > 1)
end)

t.test("finalizers step", function()
  local sched, failed = psocket.scheduler(), 0
  sched.errorfunc = function() failed = failed + 1 end
  for i = 1, 40 do
    sched:add(function()
      sched:sleep(0.002)
      for _ = 1, 3 do t.finalizer(function() pcall(sched.step, sched, 0) end) end
      if i % 2 == 0 then error {} end
      collectgarbage()
      return i
    end)
  end
  drain(sched)
  equal(failed, 20)
end)

t.finish()
