-- What the examples had to fake: lines, join, queues, sends of several strings, closing in stages.
local t = require "check"
local psocket, finish = t.psocket, t.complete
local check, equal, fails, raises = t.check, t.equal, t.fails, t.raises
local yield = coroutine.yield

t.modes("several strings and lists of them", function(go)
  local a, b = t.tcp()
  local many, whole = {}, {}
  for i = 1, 3000 do many[i] = ("%d;"):format(i) end
  local big = ("big"):rep(1000000)
  local got
  go(function()
    equal(a:send("a", "", "b", 5), true)
    equal(a:send { "c", "d" }, true)
    equal(a:send({ "e" }, { timeout = 5 }), true)
    equal(a:send({}), true)
    equal(a:send(many), true)
    equal(a:send("<", big, ">", big, { timeout = 10 }), true)
    a:shutdown()
  end, function()
    equal(b:read(7), "ab5cde1")
    local data = b:recv()
    while data do whole[#whole + 1] = data data = b:recv() end
    got = table.concat(whole)
  end)
  equal(got == table.concat(many):sub(2) .. "<" .. big .. ">" .. big, true)
  raises("item 2", a.send, a, { "x", 5 })
  raises("string expected", a.send, a, "x", true)
  local u = psocket.udpserver("127.0.0.1:0")
  raises("datagram", u.send, u, "x", "y")
end)

t.test("how much has gone of several strings", function()
  local a, b = t.tcp()
  local _, _, why, sent = a:send(("x"):rep(9999999), ("y"):rep(9999999), { timeout = 0.05 })
  equal(why, "TIMEOUT")
  a:close()
  local got = 0
  local data = b:recv()
  while data do got = got + #data data = b:recv() end
  equal(got, sent)
end)

t.test("lines", function()
  local a, b = t.tcp()
  a:send("one\r\ntwo\n\nfour|five|")
  local got = {}
  local sched = psocket.scheduler()
  local function all(...)
    local next_line = b:lines(...)
    local line = next_line()
    while line and #got < 8 do got[#got + 1] = line line = next_line() end
  end
  b:settimeout(1)
  local iterate = b:lines()
  for i = 1, 3 do got[i] = iterate() end
  equal(table.concat(got, ","), "one,two,")
  got = {}
  a:send("rest")
  a:close()
  sched:add(all, "|")
  finish(sched)
  equal(table.concat(got, ","), "four,five,rest")
  local c, d = t.tcp()
  c:send("x\n")
  d:settimeout(0.02)
  local n = 0
  raises("timed out", function() for _ in d:lines() do n = n + 1 end end)
  equal(n, 1)
end)

t.test("join hands on results and errors", function()
  local sched = psocket.scheduler()
  local log = {}
  local slow = sched:add(function() sched:sleep(0.02) return "slow", nil, 3 end)
  local quick = sched:add(function() return "quick" end)
  local none = sched:add(function() yield() end)
  sched.errorfunc = function(m) log.errors = (log.errors or 0) + 1 log.message = m end
  local bad = sched:add(function() sched:sleep(0.01) error("bad", 0) end)
  sched:add(function()
    local a, b, c = sched:join(slow)
    log.slow = tostring(a) .. tostring(b) .. tostring(c)
    log.quick = sched:join(quick)
    log.none = select("#", sched:join(none))
  end)
  local mine = sched:add(function()
    local ok, message = coroutine.resume(coroutine.create(function() return sched:join(quick) end))
    log.inner = ok and message
    sched:join(bad)
  end)
  finish(sched)
  equal(log.slow, "slownil3")
  equal(log.quick, "quick")
  equal(log.none, 0)
  equal(log.errors, 1) -- of mine, to which the error was handed on
  equal(log.message, "bad")
  raises("bad", sched.join, sched, mine)
  equal(sched:join(quick), "quick") -- outside of tasks
  local later = sched:add(function() sched:sleep(0.02) return 5 end)
  equal(sched:join(later), 5)
  raises("task of this scheduler", sched.join, sched, coroutine.create(function() end))
  raises("itself", function() sched.errorfunc = nil sched:add(function() sched:join((coroutine.running())) end) end)
  local other = psocket.scheduler()
  local across = other:add(function() other:sleep(0.02) return "across" end)
  local got
  sched:add(function() other:run() end)
  sched:add(function() got = other:join(across) end)
  finish(sched)
  equal(got, "across")
end)

t.modes("queues", function(go, nap)
  local q, got = psocket.queue(), {}
  go(function()
    nap(0.01)
    for i = 1, 5 do q:push(i) end
    nap(0.01)
    q:push("last")
    q:close()
  end, function()
    local v = q:pop()
    while v do got[#got + 1] = v v = q:pop() end
    fails("CLOSED_HERE", q:pop())
    fails("CLOSED_HERE", q:push(1))
  end)
  equal(table.concat(got, " "), "1 2 3 4 5 last")
  go(function() fails("TIMEOUT", psocket.queue():pop { timeout = 0.02 }) end)
end)

t.test("several that wait at a queue", function()
  local sched, q, sum, ended = psocket.scheduler(), psocket.queue(), 0, 0
  local tasks = {}
  for i = 1, 5 do
    tasks[i] = sched:add(function()
      local v = q:pop()
      while v do sum = sum + v v = q:pop() end
      ended = ended + 1
    end)
  end
  sched:add(function()
    for i = 1, 100 do q:push(i) if i % 10 == 0 then sched:sleep(0) end end
    sched:remove(tasks[1])
    q:push(1000)
    q:close()
  end)
  finish(sched)
  equal(sum, 6050)
  equal(ended, 4)
  raises("for ever", q.pop, psocket.queue())
  raises("nil", q.push, q, nil)
  equal(#q, 0)
end)

t.test("a server that answers before it has read all loses nothing", function()
  local sched = psocket.scheduler()
  local body = ("b"):rep(1000000)
  local l = psocket.bind(sched, "127.0.0.1:0", function(s) s:read(10) s:send(body) end)
  local _, port = l:getlocal()
  local got, why = 0, nil
  sched:add(function()
    local c = psocket.connect("127.0.0.1", port)
    c:send(("r"):rep(200000))
    sched:sleep(0.1)
    while true do
      local data, _, name = c:recv()
      if not data then why = name break end
      got = got + #data
    end
    c:close()
    l:close()
  end)
  finish(sched, 8)
  equal(got, #body)
  equal(why, "CLOSED")
end)

t.test("finish ends in time", function()
  local a, b = t.tcp()
  local before = psocket.now()
  fails("TIMEOUT", b:finish(0.1))
  check(psocket.now() - before < 1.5)
  equal(b:isopen(), false)
  fails("CLOSED_HERE", b:finish())
  fails("CLOSED", a:recv())
  local c, d = t.tcp()
  t.scheduled(function() equal(d:finish(), true) end, function() fails("CLOSED", c:recv()) c:close() end)
end)

t.finish()
