-- What is refused must harm nobody: a second starttls, a scheduler run by a task of its own, options beside ready settings;
-- and what needs no descriptor works without one.
local t = require "check"
local psocket = t.psocket
local check, equal, fails, raises = t.check, t.equal, t.fails, t.raises
local tls = select(3, psocket.tls {}) ~= "UNSUPPORTED" and t.pem("ca.pem")
local ca, certs = t.pem("ca.pem"), { { chain = t.pem("ec.pem"), private_key = t.pem("ec.key") } }

t.modes("starttls beside a handshake or a reader is refused, and harms neither", function(go)
  if not tls then return end
  local wrong = { { chain = "no PEM", private_key = "nor this" } }
  for _, second in ipairs { certs, wrong, psocket.tls(certs) } do
    local a, b = psocket.pair()
    local got, first, hello
    go(function() got = b:recv() end,
       function()
         repeat coroutine.yield() until got == nil
         local none, message, why = b:starttls(second)
         equal(none, nil)
         fails("BUSY", none, message, why)
         equal(b:isopen(), true)
         a:send("still open")
       end)
    equal(got, "still open")
    local started
    go(function()
         started = true
         first = b:starttls(certs)
         hello = b:recv()
       end,
       function()
         while not started do coroutine.yield() end
         for _ = 1, 2 do fails("BUSY", b:starttls(second)) end
         assert(a:starttls("localhost", { ca = ca }))
         a:send("hello")
       end)
    equal(first, true)
    equal(hello, "hello")
    equal(select("#", b:starttls(second)), 1) -- nil alone: it is TLS
    equal(b:isopen(), true)
  end
end)

t.test("starttls of the socket that decide is asked for is refused, and the handshake goes on", function()
  if not tls then return end
  local a, b = psocket.pair()
  local why, done
  t.scheduled(
    function() b:starttls(certs) end,
    function()
      done = a:starttls("localhost", { ca = ca, decide = function()
        why = select(3, a:starttls("localhost", { ca = ca }))
        return true
      end })
    end)
  equal(why, "BUSY")
  equal(done, true)
end)

t.test("options beside ready settings: a time limit, and nothing that would be ignored", function()
  if not tls then return end
  local settings = psocket.tls { ca = ca }
  for _, options in ipairs { { pins = { ("a"):rep(64) } }, { ca = ca }, { timeout = 1, min_version = "TLSv1.3" }, { certs[1] } } do
    local a = psocket.pair()
    raises("bad argument #4", a.starttls, a, "localhost", settings, options)
    raises("bad argument #3", a.starttls, a, settings, options)
    equal(a:isopen(), true)
  end
end)

t.test("a scheduler is not run by a task of its own, however that came to run", function()
  local cannot = "a scheduler cannot be run by one of its own tasks"
  local sched, ok, why = psocket.scheduler(), nil, nil
  local function run() ok, why = pcall(sched.run, sched) end
  if t.version() >= "5.4" and coroutine.close then -- by a handler of a coroutine that is being closed
    local co = coroutine.create(load [[
      local run, sched = ...
      local guard <close> = setmetatable({}, { __close = run })
      sched:sleep(60)
    ]])
    coroutine.resume(co, run, sched)
    sched:add(co)
    coroutine.close(co)
    equal(ok, false)
    check(tostring(why):find(cannot, 1, true))
  end
  ok, why = nil, nil
  if t.version() ~= "5.1" and t.version() ~= "5.2" then -- where nothing can yield; older ones cannot tell
    coroutine.wrap(function()
      sched:add(coroutine.running())
      table.sort({ 2, 1 }, function(a, b)
        if ok == nil then run() end
        return a < b
      end)
    end)()
    equal(ok, false)
    check(tostring(why):find(cannot, 1, true))
  end
  sched:run()
  check(not sched:step())
end)

t.test("a sleep needs no descriptor", function()
  local p = t.process([[
    local psocket = require "psocket"
    local files = {}
    repeat -- what nobody keeps the collector would close
      local f = io.open("/dev/null")
      files[#files + 1] = f
    until not f or #files > 100
    local sched = setmetatable({}, { __index = psocket.scheduler })
    local start = psocket.now()
    psocket.scheduler.sleep(sched, 0.05)
    print(select(3, psocket.pair()), #files < 100 and psocket.now() - start >= 0.049)
    print(psocket.queue():pop { timeout = 0.01 })
  ]], "ulimit -n 30")
  equal(p:read("*l"), "DESCRIPTORS\ttrue")
  equal(p:read("*l"), "nil\ttimed out\tTIMEOUT")
  p:close()
end)

t.test("a server that has no descriptors left waits for them, and does not spin", function()
  local p = t.process([[
    local psocket = require "psocket"
    local sched, clients, files = psocket.scheduler(), {}, {}
    local l = psocket.bind(sched, "127.0.0.1:0", function(s) s:send("hello") end)
    local _, port = l:getlocal()
    for i = 1, 3 do clients[i] = psocket.connect("127.0.0.1", port) end
    repeat -- what nobody keeps the collector would close
      local f = io.open("/dev/null")
      files[#files + 1] = f
    until not f or #files > 100
    local function turns(seconds)
      local stop = psocket.now() + seconds
      while psocket.now() < stop do sched:step(math.max(0, stop - psocket.now())) end
    end
    turns(0.1)
    local start = os.clock()
    turns(0.5)
    print(os.clock() - start < 0.1, clients[1]:peek())
    for _, f in ipairs(files) do f:close() end
    turns(0.3)
    print(clients[1]:peek())
  ]], "ulimit -n 40")
  equal(p:read("*l"), "true")
  equal(p:read("*l"), "hello")
  p:close()
end)

t.test("a failed yield leaves no claim behind", function()
  local a, b = psocket.pair()
  local x = psocket.pair()
  local q, waits = psocket.queue(), {}
  waits[1] = function() x:recv() end
  waits[2] = function() q:pop() end
  waits[3] = function() psocket.scheduler():sleep(60) end
  for _, wait in ipairs(waits) do
    a:settimeout(0.001) -- where it blocks instead
    local co = coroutine.create(function()
      pcall(string.gsub, "x", "x", function() a:recv() end) -- a C function: nothing yields through it
      wait()
    end)
    assert(coroutine.resume(co))
    a:settimeout(5)
    b:send("y")
    local got, _, why = a:recv()
    equal(got, "y", why)
  end
end)

t.test("while a question is open others hear BUSY", function()
  if not tls then return end
  local a, b = psocket.pair()
  local asked, done, first, second
  t.scheduled(
    function() b:starttls(certs) end,
    function()
      done = a:starttls("localhost", { ca = ca, decide = function()
        asked = true
        if t.pcall_yields then for _ = 1, 3 do coroutine.yield() end end
        return true
      end })
    end,
    function()
      while not asked do coroutine.yield() end
      if not t.pcall_yields then return end
      first, second = select(3, a:recv()), select(3, a:send("x"))
    end)
  equal(done, true)
  if t.pcall_yields then equal(first, "BUSY") equal(second, "BUSY") end
end)

t.test("certificates are a server's, though a server has used them", function()
  if not tls then return end
  for _ = 1, 2 do
    local a, b = psocket.pair()
    raises("string expected, got table", a.starttls, a, certs)
    equal(a:isopen(), true)
    t.scheduled(function() check(b:starttls(certs)) end, function() check(a:starttls("localhost", { ca = ca })) end)
  end
end)

t.test("what wrap made of bind's socket is closed with it", function()
  for _, fails in ipairs { false, true } do
    local sched, kept, got, why = psocket.scheduler(), nil, nil, nil
    sched.errorfunc = function() end
    local l = psocket.bind(sched, "127.0.0.1:0", function(s)
      kept = assert(psocket.wrap(s))
      kept:send("hello")
      if fails then error("on purpose") end
    end)
    local _, port = l:getlocal()
    sched:add(function()
      local c = assert(psocket.connect("127.0.0.1", port, { timeout = 5 }))
      got = c:read(5)
      why = select(3, c:recv { timeout = 5 })
      l:close()
    end)
    sched:run()
    equal(got, "hello")
    equal(why, "CLOSED")
    equal(kept:isopen(), false)
  end
end)

t.finish()
