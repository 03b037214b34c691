-- The scheduler, and coroutines as they really are.
local t = require "check"
local psocket, finish = t.psocket, t.complete
local check, equal, fails, raises = t.check, t.equal, t.fails, t.raises
local yield = coroutine.yield

-- Runs sched to its end, but no longer than seconds.
t.test("making schedulers", function()
  check(psocket.scheduler() ~= psocket.scheduler())
  check(psocket.scheduler.new())
  equal(psocket.scheduler():step(), false)
  psocket.scheduler():run()
  -- as Pluto's `new` does
  local made = setmetatable({}, psocket.scheduler)
  made:__construct()
  local ran
  made:add(function() ran = true end)
  equal(ran, true)
  made:run()
  -- a class of one's own
  local class = setmetatable({}, { __index = psocket.scheduler })
  class.__index = class
  local own = setmetatable({}, class)
  own:add(function() yield() ran = "own" end)
  own:run()
  equal(ran, "own")
  check(tostring(made):find("0 tasks"))
  raises("expected", psocket.scheduler.add, nil, print)
  raises("function expected", made.add, made, 5)
  raises("function expected", made.add, made)
end)

t.test("add starts at once, with arguments, and returns the coroutine", function()
  local sched, log = psocket.scheduler(), {}
  local co = sched:add(function(a, b) log[#log + 1] = a .. b yield() log[#log + 1] = "again" end, "x", "y")
  equal(type(co), "thread")
  equal(log[1], "xy")
  equal(sched:contains(co), true)
  sched:run()
  equal(log[2], "again")
  equal(sched:contains(co), false)
  local mine = coroutine.create(function() yield() log[#log + 1] = "mine" end)
  equal(sched:add(mine), mine)
  equal(sched:add(mine), mine) -- once is enough
  sched:run()
  equal(log[3], "mine")
  equal(log[4], nil)
  raises("not ended", sched.add, sched, mine)
  raises("expected", sched.contains)
  raises("coroutine expected", sched.contains, sched, nil)
  raises("coroutine expected", sched.remove, sched, 5)
end)

t.test("a coroutine adds itself", function()
  local sched, steps = psocket.scheduler(), 0
  local co = coroutine.create(function()
    sched:add((coroutine.running()))
    yield()
    steps = steps + 1
    yield()
    steps = steps + 1
  end)
  coroutine.resume(co)
  finish(sched)
  equal(steps, 2)
end)

t.test("contains and remove, as in Pluto's tests", function()
  local sched = psocket.scheduler()
  local done = sched:add(function() end)
  sched:add(function()
    while sched:contains(done) do yield() end
  end)
  finish(sched)
  sched = psocket.scheduler()
  local co, ok = sched:add(function() end), false
  sched:add(function()
    equal(sched:contains(co), true)
    equal(sched:remove(co), true)
    equal(sched:contains(co), false)
    equal(sched:remove(co), false)
    yield()
    ok = true
  end)
  finish(sched)
  equal(ok, true)
end)

t.test("addloop", function()
  local sched, n = psocket.scheduler(), 0
  sched:addloop(function() n = n + 1 return n < 5 end)
  equal(n, 1)
  finish(sched)
  equal(n, 5)
  sched:addloop(function() n = n + 1 if n == 8 then return false end end)
  finish(sched)
  equal(n, 8)
end)

t.test("sleep", function()
  local sched, order = psocket.scheduler(), {}
  local before = psocket.now()
  for _, s in ipairs { 0.06, 0.02, 0.04, 0 } do
    sched:add(function() sched:sleep(s) order[#order + 1] = s end)
  end
  sched:run()
  local took = psocket.now() - before
  equal(table.concat(order, " "), "0 0.02 0.04 0.06")
  check(took >= 0.055 and took < 1, "took " .. took)
  before = psocket.now()
  sched:sleep(0.03) -- outside a coroutine
  check(psocket.now() - before >= 0.025)
  raises("number expected", sched.sleep, sched)
  raises("not a time", sched.sleep, sched, -1)
end)

t.test("step waits at most that long, and says whether tasks remain", function()
  local sched = psocket.scheduler()
  sched:add(function() sched:sleep(2.5) end)
  local before = psocket.now()
  equal(sched:step(), true)
  equal(sched:step(0), true)
  equal(sched:step(0.05), true)
  local took = psocket.now() - before
  check(took >= 0.04 and took < 2, "took " .. took)
  finish(sched)
  equal(sched:step(5), false)
  raises("not a time", sched.step, sched, "x")
end)

t.test("tasks that yield by themselves do not starve sockets, nor burn the CPU", function()
  local sched = psocket.scheduler()
  local a, b = t.tcp()
  local turns, got, stop = 0, 0, false
  sched:add(function() while not stop do turns = turns + 1 yield() end end)
  sched:add(function() for _ = 1, 50 do a:send("ping") a:recv() end stop = true end)
  sched:add(function() for _ = 1, 50 do b:recv() got = got + 1 b:send("pong") end end)
  finish(sched)
  equal(got, 50)
  check(turns > 1)
  stop = false
  sched:add(function() while not stop do yield() end end)
  sched:add(function() sched:sleep(0.3) stop = true end)
  local cpu = os.clock()
  sched:run()
  check(os.clock() - cpu < 0.15, "CPU " .. os.clock() - cpu)
end)

t.test("yieldfunc is called between turns of such tasks", function()
  local sched, calls, n = psocket.scheduler(), 0, 0
  sched.yieldfunc = function() calls = calls + 1 end
  sched:addloop(function() n = n + 1 return n < 10 end)
  sched:run()
  check(calls >= 8 and calls <= 12, calls)
  calls = 0
  sched:add(function() sched:sleep(0.02) end)
  sched:run()
  check(calls == 0, "a scheduler that can sleep has no need of it")
  sched.yieldfunc = function() error("from yieldfunc") end
  sched:addloop(function() n = n + 1 return n < 20 end)
  raises("from yieldfunc", sched.run, sched)
  sched.yieldfunc = nil
  sched:run()
  equal(n, 20)
end)

t.test("an idle scheduler uses no CPU", function()
  local sched = psocket.scheduler()
  local l = assert(psocket.listen("127.0.0.1:0"))
  local _, port = l:getlocal()
  local open = 0
  sched:add(function()
    for _ = 1, 20 do
      local s = assert(l:accept())
      sched:add(function() open = open + 1 s:recv() open = open - 1 end)
    end
  end)
  local clients = {}
  for i = 1, 20 do clients[i] = assert(psocket.connect("127.0.0.1", port)) end
  local stop = psocket.now() + 5
  while open < 20 and psocket.now() < stop do sched:step(0.05) end
  equal(open, 20)
  sched:add(function() sched:sleep(1) for i = 1, 20 do clients[i]:close() end end)
  local cpu = os.clock()
  sched:run()
  cpu = os.clock() - cpu
  check(cpu < 0.1, "CPU " .. cpu)
  equal(open, 0)
end)

t.test("errors leave run with a traceback; the others go on", function()
  local sched, n = psocket.scheduler(), 0
  local function deep() error("it broke") end
  sched:add(function() for _ = 1, 3 do n = n + 1 yield() end end)
  local bad = sched:add(function() yield() deep() end)
  sched:add(function() for _ = 1, 3 do n = n + 1 yield() end end)
  local ok, message = pcall(sched.run, sched)
  equal(ok, false)
  check(message:find("it broke") and message:find("traceback") and message:find("scheduler.lua"), message)
  equal(sched:contains(bad), false)
  sched:run()
  equal(n, 6)
  -- out of add
  raises("at once", sched.add, sched, function() error("at once") end)
  -- any value
  local thing = {}
  sched:add(function() yield() error(thing) end)
  ok, message = pcall(sched.step, sched, 1)
  equal(message, thing)
  equal(sched:step(), false)
end)

t.test("errorfunc", function()
  local sched, errors, n = psocket.scheduler(), {}, 0
  sched.errorfunc = function(message, trace) errors[#errors + 1] = message check(trace:find("traceback")) end
  sched:add(function() error("first") end)
  sched:add(function() yield() error("second") end)
  sched:add(function() yield() yield() n = 1 end)
  sched:run()
  check(errors[1]:find("first") and errors[2]:find("second"))
  equal(n, 1)
  sched.errorfunc = function(message) error("errorfunc: " .. message, 0) end
  sched:add(function() yield() error("third", 0) end)
  raises("errorfunc: third", sched.run, sched)
  sched:run()
end)

t.test("nested coroutines yield through", function()
  local sched = psocket.scheduler()
  local a, b = t.tcp()
  local got = {}
  sched:add(function()
    local lines = coroutine.wrap(function()
      while true do
        local data = b:recv()
        if not data then yield(false) end
        yield(data)
      end
    end)
    while true do
      local data = lines()
      if data == false then break end
      if data then got[#got + 1] = data else yield() end
    end
  end)
  sched:add(function()
    for i = 1, 3 do a:send("n" .. i) sched:sleep(0.02) end
    sched:sleep(0.2)
    a:close()
  end)
  local cpu = os.clock()
  finish(sched)
  equal(table.concat(got, " "), "n1 n2 n3")
  check(os.clock() - cpu < 0.1, "CPU")
end)

t.test("a task that waits for two sockets through two inner coroutines", function()
  local sched = psocket.scheduler()
  local a1, b1 = t.tcp()
  local a2, b2 = t.tcp()
  local got = {}
  sched:add(function()
    local inner = {}
    for i, s in ipairs { b1, b2 } do
      inner[i] = coroutine.create(function() for _ = 1, 2 do table.insert(got, (s:recv())) end end)
    end
    while #inner > 0 do
      for i = #inner, 1, -1 do
        assert(coroutine.resume(inner[i]))
        if coroutine.status(inner[i]) == "dead" then table.remove(inner, i) end
      end
      if #inner > 0 then yield() end
    end
  end)
  sched:add(function()
    for i, s in ipairs { a2, a1, a1, a2 } do s:send("m" .. i) sched:sleep(0.02) end
  end)
  finish(sched)
  equal(table.concat(got, " "), "m1 m2 m3 m4")
end)

t.test("an inner coroutine that is left behind does not keep its task from running", function()
  local sched = psocket.scheduler()
  local a, b = t.tcp()
  local n = 0
  sched:add(function()
    local inner = coroutine.wrap(function() b:recv() end)
    inner()
    a:send("x")
    for _ = 1, 5 do n = n + 1 yield() end
    sched:sleep(0.02)
    n = n + 1
  end)
  local cpu = os.clock()
  finish(sched, 2)
  equal(n, 6)
  check(os.clock() - cpu < 0.1)
  collectgarbage()
  collectgarbage()
  equal(b:recv(), "x", "its slot is free again")
end)

t.test("resuming early by hand", function()
  local sched = psocket.scheduler()
  local a, b = t.tcp()
  local c, d = t.tcp()
  local log = {}
  local task = sched:add(function()
    log[#log + 1] = b:recv()
    yield()
    log[#log + 1] = "after yield"
    log[#log + 1] = d:recv()
    sched:sleep(0.02)
    log[#log + 1] = "end"
  end)
  for _ = 1, 5 do assert(coroutine.resume(task)) end -- still nothing there
  equal(#log, 0)
  a:send("one")
  local stop = psocket.now() + 2
  while #log == 0 and psocket.now() < stop do assert(coroutine.resume(task, "ignored")) end
  equal(log[1], "one")
  assert(coroutine.resume(task)) -- past the plain yield, into d:recv()
  equal(log[2], "after yield")
  sched:step(0)
  sched:add(function() assert(coroutine.resume(task)) end) -- from another task
  sched:step(0.02)
  c:send("two")
  finish(sched, 3)
  equal(table.concat(log, ", "), "one, after yield, two, end")
end)

t.test("a task resumed by hand to its end", function()
  local sched = psocket.scheduler()
  local a, b = t.tcp()
  local task = sched:add(function() b:recv() end)
  a:send("x")
  local stop = psocket.now() + 2
  while coroutine.status(task) ~= "dead" and psocket.now() < stop do coroutine.resume(task) end
  finish(sched, 2)
  equal(sched:contains(task), false)
end)

t.test("a second waiter for the same direction is refused", function()
  local sched = psocket.scheduler()
  local a, b = t.tcp()
  local first, second
  sched:add(function() first = b:recv() end)
  sched:add(function()
    second = { b:recv() }
    equal(b:send("the other direction is free"), true)
    a:send("x")
  end)
  fails("BUSY", b:recv()) -- also outside
  finish(sched)
  equal(first, "x")
  equal(second[1], nil)
  equal(second[3], "BUSY")
  local l = assert(psocket.listen(0))
  sched:add(function() l:accept() end)
  sched:add(function() fails("BUSY", l:accept()) l:close() end)
  finish(sched)
end)

t.test("a second waiter without a scheduler", function()
  local a, b = t.tcp()
  local co = coroutine.create(function() return b:recv() end)
  coroutine.resume(co)
  fails("BUSY", b:recv())
  local other = coroutine.wrap(function() return b:recv() end)
  fails("BUSY", other())
  co = nil
  collectgarbage()
  collectgarbage()
  a:send("free again")
  equal(b:recv(), "free again")
end)

t.test("a task removed while it waits", function()
  local sched = psocket.scheduler()
  local a, b = t.tcp()
  local got
  local task = sched:add(function() got = b:recv() end)
  sched:step(0)
  equal(sched:remove(task), true)
  equal(sched:step(0), false)
  a:send("for whom?")
  equal(b:recv(), "for whom?") -- nobody waits any more
  a:send("by hand")
  local stop = psocket.now() + 2
  while not got and psocket.now() < stop do coroutine.resume(task) end
  equal(got, "by hand")
  -- while it sleeps
  task = sched:add(function() sched:sleep(0.02) got = "slept" end)
  sched:remove(task)
  sched:add(function() sched:sleep(0.05) end)
  sched:run()
  equal(got, "by hand")
  -- by itself
  sched:add(function() sched:remove((coroutine.running())) yield() got = "never" end)
  finish(sched)
  equal(got, "by hand")
end)

t.test("close wakes every waiter with its reason", function()
  local sched = psocket.scheduler()
  local a, b = t.tcp()
  local l = assert(psocket.listen(0))
  local woken = 0
  sched:add(function()
    local data, message, name = b:recv()
    equal(data, nil)
    equal(message, "closed on this side")
    equal(name, "CLOSED_HERE")
    woken = woken + 1
  end)
  sched:add(function()
    local ok, _, name, sent = b:send(("x"):rep(20000000))
    equal(ok, nil)
    equal(name, "CLOSED_HERE")
    check(sent > 0 and sent < 20000000)
    woken = woken + 1
  end)
  sched:add(function() fails("CLOSED_HERE", l:accept()) woken = woken + 1 end)
  sched:step(0.05)
  equal(woken, 0)
  b:close()
  l:close()
  finish(sched, 2)
  equal(woken, 3)
  a:close()
end)

t.test("isopen and peek by others do not take a waiter's data away", function()
  for _, look in ipairs { psocket.isopen, psocket.peek, tostring } do
    local sched = psocket.scheduler()
    local a, b = t.tcp()
    local got
    sched:add(function() got = b:recv() fails("CLOSED", b:recv()) end)
    sched:step(0)
    a:send("seen by a look")
    local stop = psocket.now() + 5
    repeat look(b) until b:pending() > 0 or psocket.now() > stop
    sched:step(0.2)
    equal(got, "seen by a look")
    a:close()
    repeat look(b) until not b:isopen() or psocket.now() > stop
    finish(sched, 2)
  end
end)

t.test("hasconnection by another does not take the connection away", function()
  local sched = psocket.scheduler()
  local l = assert(psocket.listen("127.0.0.1:0"))
  local got
  sched:add(function() got = l:accept() end)
  sched:step(0)
  local c = assert(psocket.connect("127.0.0.1", (select(2, l:getlocal()))))
  local stop = psocket.now() + 5
  repeat until l:hasconnection() or psocket.now() > stop
  finish(sched, 2)
  check(got)
  c:close()
end)

t.test("close wakes waiters of other schedulers and home-made ones", function()
  local one, two = psocket.scheduler(), psocket.scheduler()
  local _, b = t.tcp()
  local names = {}
  one:add(function() table.insert(names, (select(3, b:recv()))) end)
  two:add(function() table.insert(names, (select(3, b:send(("x"):rep(20000000))))) end)
  one:step(0)
  two:step(0)
  b:close()
  finish(one, 2)
  finish(two, 2)
  equal(table.concat(names, " "), "CLOSED_HERE CLOSED_HERE")
  local _, d = t.tcp()
  local co = coroutine.wrap(function() return d:recv() end)
  co()
  d:close()
  fails("CLOSED_HERE", co())
end)

t.test("a socket moves from one scheduler to another", function()
  local one, two = psocket.scheduler(), psocket.scheduler()
  local a, b = t.tcp()
  local got = {}
  for i = 1, 4 do
    local sched = i % 2 == 0 and one or two
    sched:add(function() got[#got + 1] = b:recv() end)
    a:send(tostring(i))
    finish(sched, 2)
  end
  equal(table.concat(got), "1234")
end)

t.test("schedulers are collected with their tasks and sockets", function()
  local weak = setmetatable({}, { __mode = "v" })
  local a
  do
    local sched = psocket.scheduler()
    local b
    a, b = t.tcp()
    weak[1] = sched
    weak[2] = b
    weak[3] = sched:add(function() b:recv() return sched end)
    sched:add(function() sched:sleep(100) end)
    sched:step(0)
  end
  t.collect()
  equal(weak[1], nil)
  equal(weak[2], nil)
  equal(weak[3], nil)
  fails("CLOSED", a:recv())
end)

t.test("a socket is collected while a removed task waits for it", function()
  local sched = psocket.scheduler()
  local a
  do
    local b
    a, b = t.tcp()
    local task = sched:add(function() b:recv() end)
    sched:add(function() sched:sleep(0.02) end)
    sched:step(0)
    sched:remove(task)
  end
  for _ = 1, 3 do collectgarbage() end
  finish(sched)
  fails("CLOSED", a:recv())
end)

t.test("close of a scheduler", function()
  local sched = psocket.scheduler()
  sched:add(function() sched:sleep(100) end)
  sched:add(function() raises("cannot close", sched.close, sched) end)
  sched:close()
  sched:close()
  raises("closed", sched.run, sched)
  raises("closed", sched.add, sched, print)
  check(tostring(sched):find("closed"))
  psocket.scheduler():close()
end)

t.test("a scheduler inside a scheduler", function()
  local outer, inner = psocket.scheduler(), psocket.scheduler()
  local a, b = t.tcp()
  local log, ticks, done = {}, 0, false
  inner:add(function()
    for _ = 1, 3 do log[#log + 1] = b:recv() end
    inner:sleep(0.02)
    log[#log + 1] = "slept"
  end)
  outer:add(function() inner:run() log[#log + 1] = "inner done" done = true end)
  outer:add(function() for i = 1, 3 do a:send("o" .. i) outer:sleep(0.02) end end)
  outer:add(function() while not done do ticks = ticks + 1 outer:sleep(0.005) end end)
  finish(outer, 5)
  equal(table.concat(log, ", "), "o1, o2, o3, slept, inner done")
  check(ticks >= 5)
end)

t.test("the outer scheduler sleeps while the inner one waits", function()
  local outer, inner = psocket.scheduler(), psocket.scheduler()
  local a, b = t.tcp()
  inner:add(function() b:recv() end)
  outer:add(function() inner:run() end)
  outer:add(function() outer:sleep(0.5) a:send("x") end)
  local cpu = os.clock()
  finish(outer, 5)
  check(os.clock() - cpu < 0.1, "CPU " .. os.clock() - cpu)
end)

t.test("an inner scheduler is told of tasks added from outside", function()
  local outer, inner = psocket.scheduler(), psocket.scheduler()
  local a, b = t.tcp()
  local c, d = t.tcp()
  local log = {}
  local waiting = inner:add(function() b:recv() log[#log + 1] = "b" end)
  outer:add(function() inner:run() log[#log + 1] = "done" end)
  outer:add(function()
    outer:sleep(0.02)
    inner:add(function() d:recv() log[#log + 1] = "d" end)
    inner:add(function() yield() log[#log + 1] = "yield" end)
    inner:add(function() inner:sleep(0.02) log[#log + 1] = "sleep" end)
    outer:sleep(0.1)
    c:send("x")
    outer:sleep(0.02)
    check(inner:contains(waiting))
    b:close()
  end)
  finish(outer, 5)
  equal(table.concat(log, " "), "yield sleep d b done")
  a:close()
end)

t.test("step inside a task lets the others run", function()
  local outer, inner = psocket.scheduler(), psocket.scheduler()
  local ticks = 0
  local before = psocket.now()
  inner:add(function() inner:sleep(0.1) end)
  outer:add(function() while inner:step(0.05) do end end)
  outer:add(function() for _ = 1, 5 do ticks = ticks + 1 outer:sleep(0.01) end end)
  finish(outer, 5)
  check(psocket.now() - before >= 0.09)
  equal(ticks, 5)
  raises("own tasks", function()
    local sched = psocket.scheduler()
    sched:add(function() sched:run() end)
  end)
end)

t.test("run inside a home-made scheduler", function()
  local a, b = t.tcp()
  local inner, got, other = psocket.scheduler(), nil, 0
  inner:add(function() got = b:recv() end)
  t.homemade(function() inner:run() end, function()
    for _ = 1, 10 do other = other + 1 yield() end
    a:send("x")
  end)
  equal(got, "x")
  equal(other, 10)
end)

t.test("pcall around calls that yield", function()
  if not t.pcall_yields then return end
  local sched = psocket.scheduler()
  local a, b = t.tcp()
  local got
  sched:add(function()
    local ok, data = pcall(b.recv, b)
    got = ok and data
    local bad, message = pcall(function() b:recv() error("after") end)
    equal(bad, false)
    check(message:find("after"))
  end)
  sched:add(function() a:send("in pcall") sched:sleep(0.02) a:send("more") end)
  finish(sched)
  equal(got, "in pcall")
end)

t.test("what tasks yield is dropped, what others resume with too", function()
  local sched = psocket.scheduler()
  local a, b = t.tcp()
  local got = {}
  sched:add(function()
    got[1] = select("#", yield(1, 2, 3))
    yield(("x"):rep(10))
    got[2] = b:recv()
  end)
  a:send("x")
  finish(sched)
  equal(got[1], 0)
  equal(got[2], "x")
  local co = coroutine.create(function() return b:recv() end)
  local results = { coroutine.resume(co) }
  equal(#results, 1)
  a:send("y")
  local stop = psocket.now() + 2
  while coroutine.status(co) ~= "dead" and psocket.now() < stop do results = { coroutine.resume(co, 1, 2, 3) } end
  equal(results[2], "y")
  equal(#results, 2)
end)

t.test("tasks that start tasks without end", function()
  local sched, depth = psocket.scheduler(), 0
  local function task() depth = depth + 1 sched:add(task) end
  equal(pcall(sched.add, sched, task), false)
  check(depth > 50, depth)
  local ran
  sched:add(function() sched:sleep(0.01) ran = true end)
  finish(sched)
  equal(ran, true)
end)

t.test("many tasks come and go", function()
  local sched = psocket.scheduler()
  local n, ended = 0, 0
  local function task(depth)
    n = n + 1
    if depth > 0 then
      sched:add(task, depth - 1)
      yield()
      sched:add(task, depth - 1)
    end
    sched:sleep((n % 7) / 1000)
    ended = ended + 1
  end
  sched:add(task, 7)
  finish(sched)
  equal(n, 255)
  equal(ended, 255)
  local tasks = {}
  for i = 1, 500 do tasks[i] = sched:add(function() sched:sleep(50) end) end
  for i = 1, 500 do equal(sched:remove(tasks[(i * 7) % 500 + 1]), true) end
  equal(sched:step(0), false)
end)

t.test("bind serves each client in a task of its own", function()
  local sched = psocket.scheduler()
  local l = assert(psocket.bind(sched, "127.0.0.1:0", function(s)
    equal(s:getside(), "server")
    local name = s:read_until("\n")
    s:send("Hello, " .. name)
  end))
  local _, port = l:getlocal()
  local answers = {}
  for i = 1, 30 do
    sched:add(function()
      local c = assert(psocket.connect("127.0.0.1", port))
      sched:sleep(((i * 3) % 5) / 100)
      c:send(i .. "\n")
      answers[i] = c:recv()
      fails("CLOSED", c:recv()) -- the callback has returned
      if #answers == 30 then l:close() end
    end)
  end
  finish(sched)
  for i = 1, 30 do equal(answers[i], "Hello, " .. i .. "\n") end
end)

t.test("an error in a callback of bind closes its socket; the others go on", function()
  local sched = psocket.scheduler()
  local l = assert(psocket.bind(sched, "127.0.0.1:0", function(s)
    if s:recv() == "bad" then error("bad client") end
    s:send("good")
  end))
  local _, port = l:getlocal()
  local got
  sched:add(function()
    local c = assert(psocket.connect("127.0.0.1", port))
    c:send("bad")
    fails("CLOSED", c:recv())
    c = assert(psocket.connect("127.0.0.1", port))
    c:send("ok")
    got = c:recv()
    l:close()
  end)
  raises("bad client", finish, sched)
  finish(sched)
  equal(got, "good")
end)

t.test("bind with a scheduler of somebody else's", function()
  local tasks = {}
  local sched = { add = function(_, f) tasks[#tasks + 1] = coroutine.create(f) end }
  local l = assert(psocket.bind(sched, "127.0.0.1:0", function(s) s:send(s:recv():upper()) end))
  local c = assert(psocket.connect("127.0.0.1", (select(2, l:getlocal()))))
  c:send("abc")
  local got
  tasks[#tasks + 1] = coroutine.create(function() got = c:recv() fails("CLOSED", c:recv()) l:close() end)
  local stop = psocket.now() + 5
  while #tasks > 0 and psocket.now() < stop do
    for i = #tasks, 1, -1 do
      assert(coroutine.resume(tasks[i]))
      if coroutine.status(tasks[i]) == "dead" then table.remove(tasks, i) end
    end
  end
  equal(got, "ABC")
  equal(#tasks, 0)
end)

t.test("bind goes on when there were too many open files", function()
  local child = t.process([[
    local psocket = require "psocket"
    local sched = psocket.scheduler()
    local served = 0
    local l = assert(psocket.bind(sched, "127.0.0.1:0", function(s)
      s:send("hi")
      s:recv()
      served = served + 1
    end))
    print((select(2, l:getlocal())))
    io.stdout:flush()
    local stop = psocket.now() + 15
    while served < 60 and psocket.now() < stop do sched:step(0.1) end
    print(os.clock())
  ]], "ulimit -n 40")
  local port = tonumber((child:read("*l")))
  local sched, greeted = psocket.scheduler(), 0
  for _ = 1, 60 do
    sched:add(function()
      local c = assert(psocket.connect("127.0.0.1", port, { timeout = 15 }))
      equal(c:read(2), "hi")
      greeted = greeted + 1
      sched:sleep(0.2)
      c:close()
    end)
  end
  finish(sched, 15)
  equal(greeted, 60)
  local cpu = tonumber((child:read("*l")))
  check(cpu and cpu < 1, "CPU " .. tostring(cpu))
  child:close()
end)

t.test("64 connections echo", function()
  local sched = psocket.scheduler()
  local l = assert(psocket.bind(sched, "127.0.0.1:0", function(s)
    local data = s:recv()
    while data do
      s:send(data)
      data = s:recv()
    end
  end))
  local _, port = l:getlocal()
  local done = 0
  for i = 1, 64 do
    sched:add(function()
      local c = assert(psocket.connect("127.0.0.1", port))
      for j = 1, 20 do
        local text = i .. ":" .. j
        c:send(text)
        equal(c:read(#text), text)
      end
      c:close()
      done = done + 1
      if done == 64 then l:close() end
    end)
  end
  finish(sched)
  equal(done, 64)
end)

t.test("a descriptor for a foreign loop", function()
  local sched = psocket.scheduler()
  local fd, seconds = sched:getfd()
  check(fd == nil or fd >= 0, fd)
  equal(seconds, nil)
  local co = sched:add(function() sched:sleep(0.2) end)
  fd, seconds = sched:getfd()
  check(seconds and seconds <= 0.2, seconds)
  local plain = sched:add(function() coroutine.yield() end)
  equal(select(2, sched:getfd()), 0)
  sched:remove(co)
  sched:remove(plain)
end)

-- Each has more to do at once than a turn's share; the other task's turns are counted meanwhile.
for name, ask in pairs {
  recv = function(a) for _ = 1, 200 do a:unrecv("x") end return function() return a:recv() end, "x" end,
  read = function(a) a:unrecv(("x"):rep(200)) return function() return a:read(1) end, "x" end,
  read_until = function(a) a:unrecv(("x\n"):rep(200)) return function() return a:read_until("\n") end, "x\n" end,
  send = function(a) return function() return a:send("x") end, true end,
} do
  t.test("a task that need not wait lets the others run: " .. name, function()
    local sched = psocket.scheduler()
    local a, b = t.tcp()
    local step, want = ask(a)
    local turns, over, turns_then = 0, false, 0
    sched:add(function()
      sched:sleep(0)
      local good = 0
      for _ = 1, 200 do if step() == want then good = good + 1 end end
      turns_then, over = turns, true
      equal(good, 200)
    end)
    sched:addloop(function() turns = turns + 1 return not over end)
    finish(sched)
    check(turns_then >= 4, turns_then)
    a:close()
    b:close()
  end)
end

t.modes("as many results as there are", function(go)
  local a, b = t.tcp()
  go(function()
    equal(select("#", a:read(1)), 1)
    equal(select("#", a:recv()), 1)
    equal(select("#", a:recv { timeout = 0.01 }), 3)
    equal(select("#", a:send("x")), 1)
    equal(select("#", a:send(("x"):rep(20000000), { timeout = 0.01 })), 4)
    equal(select("#", a:starttls("localhost", { timeout = 0.01 })), 3)
  end, function() b:send("xy") end)
end)

t.test("a turn within a turn", function()
  local sched, order = psocket.scheduler(), {}
  sched.errorfunc = function() sched:step(0) end
  for i = 1, 20 do
    sched:add(function()
      coroutine.yield()
      order[#order + 1] = i
      if i % 3 == 0 then error("on purpose") end
      coroutine.yield()
      order[#order + 1] = i
    end)
  end
  sched:run()
  equal(#order, 34)
end)

t.finish()
