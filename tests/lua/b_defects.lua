-- What a second look found in 0.1's scheduler and arguments: one test or more for each defect.
local t = require "check"
local psocket, finish = t.psocket, t.complete
local check, equal, fails, raises = t.check, t.equal, t.fails, t.raises
local yield = coroutine.yield

-- Has f called by the collector at the next allocation, of whatever. Returns a function that puts the collector back.
local function at_next_allocation(f)
  local calm, armed = t.eager(), true
  local mode = _VERSION >= "Lua 5.4" and collectgarbage("generational") or nil
  local function undo()
    if mode then collectgarbage(mode) end
    calm()
  end
  collectgarbage("collect")
  collectgarbage("stop")
  t.finalizer(function() if armed then armed = false f() end end)
  collectgarbage("restart")
  return undo
end

t.test("a finalizer starts tasks while a task is added", function()
  for round = 1, 30 do
    local sched, ran, cos = psocket.scheduler(), 0, {}
    for i = 1, 80 do cos[i] = coroutine.create(function() yield() ran = ran + 1 end) end
    for i = 1, round do sched:add(cos[i]) end
    local function add_others() for i = round + 2, 80 do sched:add(cos[i]) end end
    local calm = at_next_allocation(add_others)
    sched:add(cos[round + 1])
    local _ = {}, {}
    calm()
    collectgarbage()
    finish(sched)
    equal(ran, 80)
  end
end)

t.test("objects of a pool say goodbye from their finalizers", function()
  for batch = 1, 60 do
    local sched, said = psocket.scheduler(), 0
    sched:add(function()
      for _ = 1, 50 + batch do t.finalizer(function() pcall(sched.add, sched, function() said = said + 1 sched:sleep(0) end) end) end
      for _ = 1, 20 + batch do sched:add(function() sched:sleep(0) end) end
    end)
    finish(sched)
  end
  check(true)
end)

t.test("a finalizer uses a scheduler that is being used for the first time", function()
  for _ = 1, 20 do
    local sched, ran = psocket.scheduler(), 0
    local function work() yield() ran = ran + 1 end
    local mine, theirs = coroutine.create(work), coroutine.create(work)
    local function add_theirs() sched:add(theirs) end
    local calm = at_next_allocation(add_theirs)
    sched:add(mine)
    calm()
    collectgarbage()
    finish(sched)
    equal(ran, 2)
  end
end)

t.test("a scheduler's core is collected by hand, by a task of it", function()
  for _, when in ipairs { "at once", "later", "by two" } do
    local sched, after = psocket.scheduler(), 0
    local _, b = t.tcp()
    local co = sched:add(function() b:recv() end)
    local function kill()
      if when ~= "at once" then yield() end
      local core = rawget(sched, "_core")
      getmetatable(core).__gc(core)
      after = after + 1
      yield()
      after = after + 1
    end
    pcall(sched.add, sched, kill)
    if when == "by two" then sched:add(function() yield() yield() end) end
    pcall(sched.run, sched)
    equal(after, 1, when)
    raises("closed", sched.add, sched, print)
    equal(coroutine.status(co), "suspended")
    b:close()
  end
end)

t.test("a task that yields by itself is resumed, whatever coroutines inside it wait for", function()
  local _, b = t.tcp()
  local sched, turns = psocket.scheduler(), 0
  for _, wait in ipairs { function() b:recv() end, function() sched:sleep(60) end,
                          function() psocket.listen("127.0.0.1:0"):accept() end } do
    turns = 0
    sched:add(function()
      local inner = coroutine.create(wait)
      coroutine.resume(inner)
      for _ = 1, 5 do yield() turns = turns + 1 end
    end)
    finish(sched, 1)
    equal(turns, 5)
  end
end)

for _, uses in ipairs { 255, 1023, 1024, 4095, 65535 } do
  t.test("nobody is refused for one who waited " .. uses .. " tasks ago", function()
    local a, b = psocket.pair()
    local sched, why = psocket.scheduler(), nil
    sched:add(function()
      sched:remove(sched:add(function() b:recv() end))
      for _ = 1, uses do sched:remove(sched:add(function() sched:sleep(30) end)) end
      local others = {}
      for i = 1, 20 do others[i] = sched:add(function() sched:sleep(30) end) end
      why = select(3, b:recv { timeout = 0.02 })
      for i = 1, #others do sched:remove(others[i]) end
    end)
    finish(sched)
    equal(why, "TIMEOUT")
    check(a)
  end)
end

for _, how in ipairs { "remove", "close of the coroutine", "close of the socket", "data over a pair" } do
  t.test("a scheduler in another one's task: " .. how, function()
    if how == "close of the coroutine" and not coroutine.close then return end
    local outer, inner = psocket.scheduler(), psocket.scheduler()
    local a, b = psocket.pair()
    local co, ended
    outer:add(function()
      co = inner:add(function() b:recv() end)
      inner:run()
      ended = true
    end)
    outer:add(function()
      outer:sleep(0.02)
      if how == "remove" then inner:remove(co)
      elseif how == "close of the coroutine" then coroutine.close(co)
      elseif how == "close of the socket" then b:close()
      else a:send("x") end
    end)
    finish(outer, 3)
    equal(ended, true)
  end)
end

t.test("unknown options raise, and name the nearest", function()
  local function unknown(name, nearest, f, ...)
    raises('"' .. name .. '"', f, ...)
    raises('"' .. nearest .. '"', f, ...)
  end
  local sched = psocket.scheduler()
  local a, peer = psocket.pair()
  local l = psocket.listen("127.0.0.1:0")
  unknown("timout", "timeout", psocket.listen, "127.0.0.1:0", { timout = 5 })
  unknown("timout", "timeout", psocket.connect, "127.0.0.1", 1, { timout = 5 })
  unknown("timout", "timeout", psocket.udpserver, "127.0.0.1:0", { timout = 5 })
  unknown("timout", "timeout", psocket.pair, { timout = 5 })
  unknown("back_log", "backlog", psocket.bind, sched, "127.0.0.1:0", print, { back_log = 5 })
  unknown("Timeout", "timeout", a.recv, a, { Timeout = 5 })
  unknown("Timeout", "timeout", a.read, a, 1, { Timeout = 5 })
  unknown("Timeout", "timeout", a.read_until, a, "x", { Timeout = 5 })
  unknown("Timeout", "timeout", a.send, a, "x", { Timeout = 5 })
  unknown("Timeout", "timeout", a.shutdown, a, "send", { Timeout = 5 })
  unknown("Timeout", "timeout", l.accept, l, { Timeout = 5 })
  unknown("recv_limit", "timeout", a.recv, a, { recv_limit = 5 }) -- of a new socket, not of one call
  if select(3, psocket.tls {}) == "UNSUPPORTED" then return end
  unknown("pin", "pins", psocket.tls, { pin = {} })
  unknown("clientauth", "client_auth", psocket.tls, { clientauth = "required" })
  unknown("cafile", "ca_file", psocket.tls, { cafile = "x" })
  unknown("alpns", "alpn", psocket.tls, { alpns = {} })
  unknown("cafile", "ca_file", a.starttls, a, "localhost", { cafile = "x" })
  unknown("cert", "chain", psocket.tls, { { cert = "x", private_key = "y" } })
  raises("number", psocket.pair, { 5 })
  raises("boolean", a.recv, a, { [true] = 5 })
  equal(a:isopen(), true)
  check(peer)
end)

t.test("options may be inherited", function()
  local defaults = { __index = { timeout = 0.01 } }
  local a, b = psocket.pair(setmetatable({}, defaults))
  fails("TIMEOUT", a:recv())
  local c, d = psocket.pair()
  fails("TIMEOUT", c:recv(setmetatable({}, defaults)))
  check(b and d)
end)

t.test("counts are integers where there are some", function()
  local a, peer = psocket.pair()
  local _, _, _, sent = a:send(("x"):rep(20000000), { timeout = 0.01 })
  equal(tostring(sent), ("%d"):format(sent))
  if math.type then equal(math.type(sent), "integer") end
  equal(tostring(a:pending()), "0")
  check(peer)
end)

t.test("contains and remove want a coroutine", function()
  local sched = psocket.scheduler()
  for _, what in ipairs { 5, "x", print, {}, false } do
    raises("coroutine expected", sched.contains, sched, what)
    raises("coroutine expected", sched.remove, sched, what)
  end
  raises("coroutine expected", sched.contains, sched)
  equal(sched:contains(coroutine.create(function() end)), false)
  equal(sched:remove(coroutine.create(function() end)), false)
end)

t.test("a finalizer starts a task that waits", function()
  for _, wait in ipairs { "sleep", "recv", "send", "accept", "connect" } do
    local sched, ended = psocket.scheduler(), nil
    local a, b = psocket.pair()
    local l = psocket.listen("127.0.0.1:0")
    local _, port = l:getlocal()
    t.finalizer(function()
      sched:add(function()
        if wait == "sleep" then sched:sleep(0.01)
        elseif wait == "recv" then fails("TIMEOUT", b:recv { timeout = 0.02 })
        elseif wait == "send" then fails("TIMEOUT", b:send(("x"):rep(20000000), { timeout = 0.02 }))
        elseif wait == "accept" then fails("TIMEOUT", l:accept { timeout = 0.02 })
        else check(psocket.connect("127.0.0.1", port)) end
        ended = true
      end)
    end)
    collectgarbage()
    collectgarbage()
    finish(sched)
    equal(ended, true, wait)
    check(a)
  end
end)

if rawget(_G, "jit") then jit.off() end -- compiled code runs no hooks

t.test("a debug hook starts a task that waits, and waits itself", function()
  local sched, done, ended = psocket.scheduler(), nil, nil
  local a, b = psocket.pair()
  a:send("x")
  local got
  debug.sethook(function()
    if done then return end
    done = true
    sched:add(function() sched:sleep(0.01) ended = true end)
    got = b:recv() -- not in a coroutine: it blocks
  end, "", 100)
  for i = 1, 1000 do local _ = i * 2 end
  debug.sethook()
  finish(sched)
  equal(ended, true)
  equal(got, "x")
end)

t.test("a hook within a task that would wait is refused or blocks", function()
  local sched, done, fine = psocket.scheduler(), nil, nil
  local _, b = psocket.pair()
  sched:add(function()
    debug.sethook(coroutine.running(), function()
      if done then return end
      done = true
      pcall(b.recv, b, { timeout = 0.01 })
    end, "", 100)
    for i = 1, 1000 do local _ = i * 2 end
    debug.sethook(coroutine.running(), nil, "")
    sched:sleep(0)
    fine = done
  end)
  finish(sched)
  equal(fine, true)
end)

t.test("a finalizer within a task that would wait is refused or blocks", function()
  local sched, done, fine = psocket.scheduler(), nil, nil
  local _, b = psocket.pair()
  sched:add(function()
    t.finalizer(function()
      done = true
      pcall(b.recv, b, { timeout = 0.01 })
    end)
    collectgarbage()
    collectgarbage()
    sched:sleep(0)
    fine = done
  end)
  finish(sched)
  equal(fine, true)
end)

t.test("setyield(false): calls on a socket block in a coroutine, too", function()
  local a, b = t.tcp()
  b:setyield(false)
  local function lines()
    return coroutine.wrap(function()
      local line = b:read_until("\n")
      while line do yield(line) line = b:read_until("\n") end
    end)
  end
  a:send("1\n2\n3")
  a:send("\n")
  a:shutdown("send")
  local got = ""
  for line in lines() do got = got .. line end
  equal(got, "1\n2\n3\n")
  fails("TIMEOUT", coroutine.wrap(function() return b:send(("x"):rep(20000000), { timeout = 0.02 }) end)())
  b:setyield(true)
  equal(select("#", coroutine.wrap(function() return b:send(("x"):rep(20000000), { timeout = 1 }) end)()), 0)
  raises("boolean", b.setyield, b)
end)

t.test("errors about arguments name the public function, count as its user does, and point to this file", function()
  local a, peer = psocket.pair()
  local l = psocket.listen("127.0.0.1:0")
  local sched = psocket.scheduler()
  local own = debug.getinfo(1, "S").short_src
  local function blame(text, f)
    local line = debug.getinfo(f, "S").linedefined
    local ok, message = pcall(f)
    equal(ok, false, text)
    equal(message, own .. ":" .. line .. ": " .. text)
  end
  blame("bad argument #1 to 'send' (string expected, got nil)", function() local _ = a:send(nil) end)
  blame("bad argument #2 to 'send' (string expected, got nil)", function() local _ = psocket.send(a, nil) end)
  blame("bad argument #1 to 'read' (number expected, got no value)", function() local _ = a:read() end)
  blame("bad argument #1 to 'recv' (table expected, got number)", function() local _ = a:recv(5) end)
  blame("bad argument #1 to 'connect' (string expected, got table)", function() local _ = psocket.connect({}, 1) end)
  blame("bad argument #2 to 'connect' (number expected, got string)", function() local _ = psocket.connect("x", "http") end)
  blame("bad argument #1 to 'accept' (table expected, got string)", function() local _ = l:accept("x") end)
  blame("bad argument #1 to 'add' (function expected, got number)", function() local _ = sched:add(5) end)
  blame("bad argument #1 to 'addloop' (function expected, got nil)", function() local _ = sched:addloop(nil) end)
  blame("bad argument #1 to 'sleep' (not a time in seconds)", function() local _ = sched:sleep(-1) end)
  blame("bad argument #1 to 'step' (not a time in seconds)", function() local _ = sched:step("x") end)
  blame("bad argument #1 to 'contains' (coroutine expected, got number)", function() local _ = sched:contains(5) end)
  blame("bad argument #3 to 'bind' (function expected, got nil)", function() local _ = psocket.bind(sched, 0) end)
  blame("bad argument #2 to 'bind' (port or \"address:port\" expected, got boolean)", function() local _ = psocket.bind(sched, true, print) end)
  blame("bad argument #1 to 'bind' (scheduler expected, got number)", function() local _ = psocket.bind(5, 0, print) end)
  blame("bad argument #1 to 'join' (coroutine expected, got nil)", function() local _ = sched:join(nil) end)
  blame("calling 'recv' on a bad self (psocket.socket expected, got userdata)", function() local x = debug.setmetatable and io.stdout x = psocket.listen(0) local _ = { recv = psocket.recv } function _.f() end debug.getmetatable(x).recv = psocket.recv local y = x:recv() return y end)
  debug.getmetatable(l).recv = nil
  raises("their class", psocket.bind, psocket.scheduler, "127.0.0.1:0", print)
end)

t.test("listen without a port says so", function()
  local s, message, name = psocket.listen("127.0.0.1")
  equal(s, nil)
  equal(name, "INVALID")
  check(message:find("port") and message:find("127.0.0.1", 1, true), message)
  fails("INVALID", psocket.listen("::1"))
  fails("INVALID", psocket.udpserver("localhost"))
  raises("no port", psocket.bind, psocket.scheduler(), "127.0.0.1", print)
end)

t.finish()
