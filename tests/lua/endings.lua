-- What tasks leave behind when they end, and long sleeps.
local t = require "check"
local psocket, finish = t.psocket, t.complete
local check, equal, raises = t.check, t.equal, t.raises
local yield = coroutine.yield

t.test("a task that returns something has ended", function()
  local sched, called = psocket.scheduler(), 0
  local function f() called = called + 1 end
  local co = sched:add(function() return f end)
  finish(sched)
  equal(coroutine.status(co), "dead")
  co = sched:add(function() yield() return f, f, f end)
  finish(sched)
  equal(coroutine.status(co), "dead")
  equal(coroutine.resume(co), false)
  sched:add(function() return 5 end)
  finish(sched)
  equal(called, 0)
end)

t.test("sleep for ever", function()
  local sched = psocket.scheduler()
  local long = sched:add(function() sched:sleep(math.huge) end)
  sched:step(0)
  sched:step(0)
  local _, seconds = sched:getfd()
  check(seconds == nil or seconds > 2e6, seconds)
  sched:remove(long)
  sched:add(function() sched:sleep(3e6) end) -- longer than fits in an int of milliseconds
  sched:step(0)
  equal(sched:step(0), true)
  sched:close()
end)

if t.pem("ca.pem") and select(3, psocket.tls {}) ~= "UNSUPPORTED" then
  t.test("settings that are gone are not the default ones", function()
    local settings = psocket.tls { ca = t.pem("ca.pem") }
    getmetatable(settings).__gc(settings)
    local c, peer = t.tcp()
    raises("collected", c.starttls, c, "localhost", settings, { timeout = 0.2 })
    equal(c:isopen(), true)
    check(peer)
  end)

end

t.finish()
