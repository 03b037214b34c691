-- Tasks that stop waiting without the scheduler's knowledge.
local t = require "check"
local psocket, finish = t.psocket, t.complete
local check, equal, fails, raises = t.check, t.equal, t.fails, t.raises
local yield = coroutine.yield

if coroutine.close then
  t.test("coroutine.close of a task that waits", function()
    local sched = psocket.scheduler()
    local _, b = t.tcp()
    local co = sched:add(function() b:recv() end)
    local sleeper = sched:add(function() sched:sleep(100) end)
    for _ = 1, 50 do sched:add(function() sched:sleep(0.3) end) end
    sched:add(function() sched:sleep(0.01) coroutine.close(co) coroutine.close(sleeper) end)
    local before = psocket.now()
    sched:run()
    check(psocket.now() - before < 3)
    equal(sched:contains(co), false)
  end)

  t.test("coroutine.close of a task from outside, between steps", function()
    local sched = psocket.scheduler()
    local _, b = t.tcp()
    local co = sched:add(function() b:recv() end)
    sched:step(0)
    coroutine.close(co)
    local stop = psocket.now() + 2
    while sched:step(0) do
      if psocket.now() > stop then error("it never ends") end
    end
  end)

  t.test("coroutine.close of a task of bind closes its socket", function()
    local sched = psocket.scheduler()
    local co
    local l = psocket.bind(sched, "127.0.0.1:0", function(s) co = coroutine.running() s:recv() end)
    sched:add(function()
      local c = psocket.connect("127.0.0.1", (select(2, l:getlocal())))
      while not co do sched:sleep(0.01) end
      coroutine.close(co)
      fails("CLOSED", c:recv { timeout = 3 })
      l:close()
    end)
    finish(sched, 5)
  end)
end

-- Where an error is raised instead of a yield: Lua 5.1 in pcall, 5.1 and 5.2 in callbacks of C.
if t.version() == "5.1" or t.version() == "5.2" then
  local function broken(f) return pcall(string.gsub, "x", "x", f) end

  t.test("a wait that failed to yield leaves its task running", function()
    local sched = psocket.scheduler()
    local _, b = t.tcp()
    local n = 0
    sched:add(function()
      equal(broken(function() return b:recv() end), false)
      n = 1
      yield()
      equal(broken(function() return sched:sleep(100) end), false)
      n = 2
      yield()
      n = 3
    end)
    finish(sched, 2)
    equal(n, 3)
  end)

  t.test("nor does it keep others from the socket", function()
    local sched = psocket.scheduler()
    local a, b = t.tcp()
    local got, stop
    sched:add(function()
      equal(broken(function() return b:recv() end), false)
      while not stop do yield() end
    end)
    sched:add(function()
      a:send("free")
      sched:sleep(0.01)
      got = b:recv()
      stop = true
    end)
    finish(sched, 2)
    equal(got, "free")
  end)
end
t.test("add wants a function", function() raises("expected", psocket.scheduler().add, psocket.scheduler()) end)

t.finish()
