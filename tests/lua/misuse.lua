-- Misuse, and failures at bad moments: arguments, finalizers, schedulers that end.
local t = require "check"
local psocket, finish = t.psocket, t.complete
local check, equal, fails, raises = t.check, t.equal, t.fails, t.raises
local yield = coroutine.yield
local integers = math.type ~= nil

t.test("geterror has details", function()
  local c, s = t.tcp()
  equal(select("#", c:geterror()), 0)
  c:send("x")
  c:send("y")
  s:close() -- unread data: on Linux that resets
  local data
  local stop = psocket.now() + 5
  repeat data = c:send("z") until not data or psocket.now() > stop
  local message, name, details = c:geterror()
  check(type(message) == "string" and type(name) == "string")
  equal(type(details), "table")
  check(type(details.os_error) == "number" and details.os_error > 0, details.os_error)
  equal(details.tls_alert, nil)
  equal(details.cert_index, nil)
  local a = psocket.pair()
  a:starttls("localhost", { timeout = 0.01 })
  message, name, details = a:geterror()
  equal(type(details), "table")
end)

t.test("counts are integers where there are integers", function()
  local a, b = psocket.pair()
  a:send("abc")
  b:peek()
  equal(tostring(b:pending()), "3")
  local sched = psocket.scheduler()
  local fd = sched:getfd()
  if fd then equal(tostring(fd), ("%d"):format(fd)) end
end)

t.test("options that are no options", function()
  raises("recv_limit", psocket.listen, 0, { recv_limit = 0.5 })
  raises("backlog", psocket.listen, 0, { backlog = 1.5 })
  raises("backlog", psocket.listen, 0, { backlog = 0 / 0 })
  raises("udpserver", psocket.listen, "127.0.0.1:0", "udp")
  raises("udpserver", psocket.listen, "127.0.0.1:0", { udp = true })
  check(psocket.listen("127.0.0.1:0", "tcp"))
end)

t.test("bind takes what can be called, and nothing else", function()
  local sched = psocket.scheduler()
  raises("function", psocket.bind, sched, "127.0.0.1:0", 5)
  raises("function", psocket.bind, sched, "127.0.0.1:0", "x")
  raises("function", psocket.bind, sched, "127.0.0.1:0", {})
  raises("function", psocket.bind, sched, "127.0.0.1:0", coroutine.create(function() end))
  local n = 0
  local l = psocket.bind(sched, "127.0.0.1:0", setmetatable({}, { __call = function(_, s) n = n + 1 s:send("x") end }))
  local _, port = l:getlocal()
  sched:add(function()
    local c = psocket.connect("127.0.0.1", port)
    equal(c:recv(), "x")
    l:close()
  end)
  finish(sched)
  equal(n, 1)
end)

t.test("the listener's timeout is its sockets', not bind's", function()
  local sched = psocket.scheduler()
  local naps = 0
  local own = setmetatable({}, { __index = sched })
  local tasks = {}
  function own:add(f) tasks[#tasks + 1] = coroutine.wrap(f) end
  local l = psocket.bind(own, "127.0.0.1:0", function(s) naps = { s:recv() } end, { timeout = 0.01 })
  local stop = psocket.now() + 0.05
  repeat tasks[1]() until psocket.now() > stop
  local c = assert(psocket.connect("127.0.0.1", (select(2, l:getlocal()))))
  repeat until l:hasconnection()
  tasks[1]() -- it waits for the connection, not for the end of a pause
  equal(#tasks, 2)
  stop = psocket.now() + 5
  repeat tasks[2]() until naps ~= 0 or psocket.now() > stop
  equal(naps[3], "TIMEOUT")
  c:close()
end)

t.test("bind closes the socket of a callback that fails, under somebody else's scheduler too", function()
  if not t.pcall_yields then return end
  local tasks, kept = {}, nil
  local sched = { add = function(_, f) tasks[#tasks + 1] = coroutine.create(f) end }
  local l = assert(psocket.bind(sched, "127.0.0.1:0", function(s) kept = s s:recv() error("bad") end))
  local c = assert(psocket.connect("127.0.0.1", (select(2, l:getlocal())), { timeout = 5 }))
  c:send("x")
  local stop, message = psocket.now() + 5, nil
  while not message and psocket.now() < stop do
    for i = 1, #tasks do
      local ok, e = coroutine.resume(tasks[i])
      if not ok then message = e end
    end
  end
  check(tostring(message):find("bad"), message)
  fails("CLOSED", c:recv())
  equal(kept:isopen(), false)
end)

t.test("addloop wants a function", function()
  local sched = psocket.scheduler()
  sched.errorfunc = function() end
  raises("function", sched.addloop, sched, nil)
  raises("function", sched.addloop, sched, 5)
  local n = 0
  sched:addloop(setmetatable({}, { __call = function() n = n + 1 return n < 3 end }))
  finish(sched)
  equal(n, 3)
end)

t.test("a scheduler that is closed wakes the one that runs it", function()
  local outer, inner = psocket.scheduler(), psocket.scheduler()
  local _, b = t.tcp()
  inner:add(function() b:recv() end)
  local message
  outer.errorfunc = function(e) message = e end
  outer:add(function() inner:run() end)
  outer:add(function() outer:sleep(0.02) inner:close() end)
  finish(outer, 2)
  check(tostring(message):find("closed"), message)
end)

t.test("__gc called by hand wakes whoever waits", function()
  local sched = psocket.scheduler()
  local _, b = t.tcp()
  local l = psocket.listen("127.0.0.1:0")
  local n = 0
  sched:add(function() fails("INVALID", b:recv()) n = n + 1 end)
  sched:add(function() fails("INVALID", l:accept()) n = n + 1 end)
  sched:step(0)
  getmetatable(b).__gc(b)
  getmetatable(l).__gc(l)
  finish(sched, 2)
  equal(n, 2)
end)

t.test("a task that fails is over, whatever else fails", function()
  local sched = psocket.scheduler()
  local traceback, dbg = debug.traceback, debug
  debug.traceback = function() error("no traceback") end
  sched:add(function() yield() error("mine") end)
  local ok, message = pcall(sched.run, sched)
  debug.traceback = traceback
  check(not ok and tostring(message):find("mine"), message)
  equal(sched:step(0), false)
  -- a program that forbids undeclared globals, and has no debug library
  debug = nil
  local meta = getmetatable(_G)
  setmetatable(_G, { __index = function(_, name) error("undeclared " .. name, 2) end })
  sched:add(function() yield() error("mine") end)
  ok, message = pcall(sched.run, sched)
  setmetatable(_G, meta)
  debug = dbg
  check(not ok and tostring(message):find("mine"), message)
  equal(sched:step(0), false)
  -- an errorfunc that cannot even be fetched
  local class = setmetatable({}, { __index = function(_, k)
    if k == "errorfunc" then error("no errorfunc") end
    return psocket.scheduler[k]
  end })
  class:add(function() yield() error("mine") end)
  raises("no errorfunc", class.run, class)
  equal(class:step(0), false)
end)

t.test("a list of addresses that a finalizer changes", function()
  local l = assert(psocket.listen("127.0.0.1:0"))
  local _, port = l:getlocal()
  local finalizer = t.finalizer
  local long = ("x"):rep(5000)
  local big = ("y"):rep(1000000)
  local calm = t.eager()
  for k = 1, 12 do -- the list changes at the k-th collection: one of them comes between measuring and copying
    local list, n = { "127.0.0.1", big }, nil
    local function change()
      if not n then return finalizer(change) end
      n = n + 1
      if n == k then list[1] = long elseif n < k then finalizer(change) end
    end
    finalizer(change)
    pcall(psocket.connect, "a.test", port, { resolve = function() collectgarbage() n = 0 return list end })
    n = k
  end
  calm()
  collectgarbage()
  check(true)
end)

t.test("a callback of C that may not yield blocks instead", function()
  if t.version() < "5.3" then return end -- there the language raises an error
  local a, b = t.tcp()
  a:send("x")
  local got
  local co = coroutine.create(function()
    got = ("-"):gsub("-", function() return (b:recv()) end)
    yield()
  end)
  check(coroutine.resume(co))
  equal(got, "x")
end)

if t.pem("ca.pem") and select(3, psocket.tls {}) ~= "UNSUPPORTED" then
  t.test("TLS options of the wrong type", function()
    raises("identities", psocket.tls, { identities = "x" })
    raises("identities", psocket.tls, { identities = 5 })
    raises("zero byte", psocket.tls, { alpn = { "h2\0x" } })
    raises("zero byte", psocket.tls, { ca_file = "/tmp/x\0y" })
    raises("zero byte", psocket.tls, { ca_dir = "/tmp\0" })
    raises("pins", psocket.tls, { pins = {} })
    raises("pins", psocket.tls, { pins = { ["example.org"] = ("0"):rep(64) } })
    raises("insecure_no_verify", psocket.tls, { insecure_no_verify = "no" })
    raises("insecure_no_name", psocket.tls, { insecure_no_name = 0 })
    check(psocket.tls { insecure_no_name = false, ca = t.pem("ca.pem") })
  end)

  t.test("geterror tells of alerts and certificates", function()
    local c, s = t.tcp()
    local rsa = { { chain = t.pem("rsa.pem"), private_key = t.pem("rsa.key") } }
    t.scheduled(function() s:starttls(rsa) end,
                function() c:starttls("other.test", { ca = t.pem("ca.pem") }) end)
    local _, name, details = c:geterror()
    equal(name, "CERT_NAME")
    equal(tostring(details.cert_index), "0")
    check(type(details.tls_alert) == "number")
    _, name, details = s:geterror()
    equal(name, "TLS_ALERT")
    check(type(details.tls_alert) == "number")
    c, s = t.tcp()
    t.scheduled(function() check(s:starttls(rsa)) end,
                function() check(c:starttls("localhost", { ca = t.pem("ca.pem") })) end)
    if integers then equal(math.type(c:tlsinfo().peer_not_after), "integer") end
  end)
end

t.finish()
