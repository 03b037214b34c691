-- options.lua: what options may be, and what is said of those that may not: the same on every runtime.
local t = require "check"
local psocket = t.psocket
local check, equal, fails, raises = t.check, t.equal, t.fails, t.raises

-- f(...) raises an error that ends with this.
local function says(text, f, ...)
  local ok, message = pcall(f, ...)
  check(not ok, "no error")
  equal(tostring(message):sub(-#text), text)
end

t.test("limits are whole numbers", function()
  says("(backlog must be a whole number up to 65535)", psocket.listen, 0, { backlog = 65536 })
  says("(keepalive must be a whole number up to 32767)", psocket.pair, { keepalive = 1e10 })
  says("(multicast_ttl must be a whole number up to 255)", psocket.udpserver, 0, { multicast_ttl = 256 })
  says("(recv_limit must be a whole number up to 1073741823)", psocket.pair, { recv_limit = -1 })
  says("(local_port must be a whole number up to 65535)", psocket.connect, "127.0.0.1", 1, { local_port = "x" })
  check(psocket.pair { recv_limit = "70000", timeout = "0.5" })
end)

t.test("long and odd names", function()
  local a = psocket.pair()
  local ok, message = pcall(a.recv, a, { [("timeout"):rep(10000)] = 1 })
  check(not ok and #message < 200 and message:find('..."; the nearest is "timeout"', 1, true), message)
  raises("unknown option", a.recv, a, { ["timeout\0x"] = 1 })
  raises("unknown option", a.recv, a, { [""] = 1 })
  raises('"keepalive"', psocket.pair, { keep_alive = 5 })
  raises('"multicast_ttl"', psocket.udpserver, 0, { multicast_tll = 5 })
  raises("the name of an option is a table", a.recv, a, { [{}] = 5 })
end)

t.test("made when they are asked for, and collected at once", function()
  local options = setmetatable({}, { __index = function(_, name)
    collectgarbage()
    if name == "local_address" then return "127.0." .. "0.1" end
    if name == "timeout" then return "0" .. ".5" end
  end })
  local l = assert(psocket.listen("127.0.0.1:0", options))
  local c = assert(psocket.connect("127.0.0.1", (select(2, l:getlocal())), options))
  equal(c:getlocal(), "127.0.0.1")
  raises("within", psocket.pair, setmetatable({}, { __index = function() error("within") end }))
end)

t.test("errors name what was called, and count as its user does", function()
  local a, b = psocket.pair { timeout = 0.01 }
  local sched, q = psocket.scheduler(), psocket.queue()
  local own = debug.getinfo(1, "S").short_src
  local function blame(text, f)
    local ok, message = pcall(f)
    check(not ok)
    equal(message, own .. ":" .. debug.getinfo(f, "S").linedefined .. ": " .. text)
  end
  blame("bad argument #1 to 'step' (table expected, got nil)", function() local _ = sched.step(nil) end)
  blame("bad argument #1 to 'run' (table expected, got number)", function() sched.run(5) end)
  blame("bad argument #1 to 'push' (psocket.queue expected, got number)", function() q.push(5) end)
  blame("bad argument #1 to 'pop' (psocket.queue expected, got nil)", function() q.pop() end)
  blame("bad argument #1 to 'pop' (unknown option \"timout\"; the nearest is \"timeout\")", function() q:pop { timout = 1 } end)
  blame("bad argument #1 to 'close' (psocket.queue expected, got table)", function() q.close {} end)
  blame("bad argument #1 to 'finish' (psocket.socket expected, got number)", function() a.finish(5) end)
  blame("bad argument #1 to 'finish' (not a time in seconds)", function() a:finish(-1) end)
  blame("bad argument #1 to 'lines' (psocket.socket expected, got nil)", function() psocket.lines(nil) end)
  blame("bad argument #1 to 'lines' (string expected, got boolean)", function() a:lines(true) end)
  blame("bad argument #1 to 'lines' (the delimiter must not be empty or contain a zero byte)", function() a:lines("") end)
  blame("bad argument #2 to 'lines' (unknown option \"timout\"; the nearest is \"timeout\")", function() a:lines("x", { timout = 1 }) end)
  blame("bad argument #1 to 'lines' (unknown option \"timout\"; the nearest is \"timeout\")", function() a:lines { timout = 1 } end)
  local send = a.send -- whatever it is called here
  blame("bad argument #2 to 'send' (string expected, got nil)", function() send(a, nil) end)
  b:send("one\r\ntwo;")
  equal(a:lines { timeout = 1 }(), "one")
  equal(a:lines(";", { timeout = 1 })(), "two")
end)

t.test("read_until of what is gone", function()
  local gone, a = psocket.pair()
  getmetatable(gone).__gc(gone)
  fails("INVALID", gone:read_until("x"))
  local carrier = a
  a = a:wrap()
  fails("INVALID", carrier:read_until("x"))
  check(a)
end)

t.test("a listener of bind cannot block", function()
  raises("yield", psocket.bind, psocket.scheduler(), "127.0.0.1:0", print, { yield = false })
  raises("streams", psocket.pair, { udp = true })
  raises("stream", psocket.wrap, psocket.pair(), { udp = true })
end)

t.test("bind goes on after a callback that fails at once, whatever add does with errors", function()
  if not t.pcall_yields then return end
  for _, starts in ipairs { true, false } do
    local tasks, errors = {}, {}
    local function resume(co, ...)
      local ok, e = coroutine.resume(co, ...)
      if not ok and starts then error(e, 0) end
      if not ok then errors[#errors + 1] = e end
    end
    local sched = { add = function(_, f, ...) local co = coroutine.create(f) tasks[#tasks + 1] = co resume(co, ...) return co end }
    local calls = 0
    local l = psocket.bind(sched, "127.0.0.1:0", function(s) calls = calls + 1 if calls == 1 then error("first") end s:send("second") end)
    local clients = {}
    for i = 1, 2 do clients[i] = assert(psocket.connect("127.0.0.1", (select(2, l:getlocal())), { timeout = 5 })) end
    local stop = psocket.now() + 5
    while #errors == 0 or calls < 2 do
      for i = 1, #tasks do
        if coroutine.status(tasks[i]) == "suspended" then
          local ok, e = pcall(resume, tasks[i])
          if not ok then errors[#errors + 1] = e end
        end
      end
      if psocket.now() > stop then break end
    end
    equal(calls, 2)
    check(tostring(errors[1]):find("first"), errors[1])
    fails("CLOSED", clients[1]:recv())
    equal(clients[2]:recv(), "second")
    l:close()
  end
end)

local ca = t.pem("ca.pem")
if not ca or select(3, psocket.tls {}) == "UNSUPPORTED" then
  t.skip("tls", "no certificates, or built without TLS")
  t.finish()
end
local rsa = { { chain = t.pem("rsa.pem"), private_key = t.pem("rsa.key") } }

t.test("TLS limits and versions", function()
  says("(max_fragment must be a whole number up to 16384)", psocket.tls, { max_fragment = 16385 })
  says("(tickets must be a whole number up to 255)", psocket.tls, { tickets = -2 })
  fails("INVALID", psocket.tls { max_fragment = 63 })
  check(psocket.tls { tickets = -1, session_cache = -1 })
  for _, v in ipairs { 1, 1.2, 1.3, 12, 0, -1, 1e300, 0 / 0, "1.2", "TLS1.2", "", {}, true } do
    says("_version must be a version of TLS, as \"TLSv1.2\")", psocket.tls, { min_version = v })
    says("_version must be a version of TLS, as \"TLSv1.2\")", psocket.tls, { max_version = v })
  end
  check(psocket.tls { min_version = 0x0303, max_version = "TLSv1.3" })
  fails("UNSUPPORTED", psocket.tls { max_version = "TLSv1.1" })
end)

t.test("lists", function()
  local pin = ("0f"):rep(32)
  check(psocket.tls { pins = { pin, pin:upper(), ("\0"):rep(32) } })
  raises("pin 2", psocket.tls, { pins = { pin, pin:sub(2) } })
  raises("pin 1", psocket.tls, { pins = { pin:sub(2) .. "g" } })
  raises("pin 1", psocket.tls, { pins = { 5 } })
  raises("pins", psocket.tls, { pins = pin })
  raises("it is empty", psocket.tls, { ticket_keys = {} })
  raises("key 1", psocket.tls, { ticket_keys = { "short" } })
  raises("name 2", psocket.tls, { alpn = { "h2", {} } })
  raises("zero byte", psocket.tls, { groups = { "x25519", "secp\0" } })
  raises("sigalgs", psocket.tls, { sigalgs = true })
  raises("certificate 2: unknown option", psocket.tls, { rsa[1], { chan = "x" } })
  raises("certificate 2: chain must be a string", psocket.tls, { identities = { rsa[1], { chain = {} } } })
  raises("certificate 2: it has no private_key", psocket.tls, { rsa[1], { chain = rsa[1].chain } })
  raises("certificate 1: sign must be a function", psocket.tls, { { chain = rsa[1].chain, sign = true } })
  raises("identities must be a list", psocket.tls, { identities = function() end })
  if t.version() == "5.1" or t.version() == "jit" then return end -- there # knows no __len
  local function proxy(list, n)
    return setmetatable({}, { __len = function() return n or #list end, __index = function(_, i) collectgarbage() return list[i] end })
  end
  check(psocket.tls { alpn = proxy { "h2" }, pins = proxy { pin }, identities = proxy(rsa) })
  raises("name 2", psocket.tls, { alpn = proxy({ "h2" }, 1e9) })
  raises("it is empty", psocket.tls, { pins = proxy({ pin }, -1) })
end)

t.test("each list reaches the handshake", function()
  local made = {}
  local function fresh(text) made[#made + 1] = 1 return (text:gsub("", "")) end
  local options = setmetatable({}, { __index = function(_, name)
    collectgarbage()
    if name == "alpn" then return { fresh "none", fresh "h2", fresh "http/1.1" } end
    if name == "groups" then return { fresh "secp384r1", fresh "x25519" } end
    if name == "ca" then return fresh(ca) end
  end })
  local c, s = t.tcp()
  local settings = assert(psocket.tls { rsa[1], alpn = { "http/1.1", "h2" }, groups = "x25519:secp384r1" })
  t.scheduled(function() check(s:starttls(settings)) end, function() equal(select(2, c:starttls("localhost", options)), "http/1.1") end)
  equal(c:tlsinfo().alpn, s:tlsinfo().alpn)
  check(#made >= 6)
end)

t.test("the time limit of settings is their handshakes'", function()
  for _, options in ipairs { { timeout = 0.02 }, false } do
    local c, peer = t.tcp { timeout = 5 }
    local settings = psocket.tls { ca = ca, timeout = options and 5 or 0.02 }
    local began = psocket.now()
    equal(select(3, c:starttls("localhost", settings, options or nil)), "TIMEOUT")
    check(psocket.now() - began < 2)
    check(peer)
  end
end)

t.test("errors of starttls count as its user does", function()
  local c, s = t.tcp()
  local function blame(text, f) local ok, message = pcall(f) check(not ok and tostring(message):find(text, 1, true), message) end
  blame("bad argument #1 to 'starttls' (table expected, got string)", function() local _ = s:starttls("x") end)
  blame("bad argument #2 to 'starttls' (table expected, got string)", function() local _ = psocket.starttls(s, "x") end)
  blame("bad argument #2 to 'starttls' (timeout is not", function() local _ = c:starttls("x", { timeout = -1 }) end)
  blame("bad argument #1 to 'starttls' (certificate 1", function() local _ = s:starttls { 5 } end)
  blame("bad argument #3 to 'starttls' (unknown", function() local _ = c:starttls("x", psocket.tls {}, { tls = 1 }) end)
  blame("bad argument #2 to 'starttls' (psocket.tls expected", function() local _ = c:starttls("x", s) end)
  equal(c:isopen(), true)
end)

t.finish()
