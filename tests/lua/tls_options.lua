-- TLS options that ask functions, choose suites and versions; sessions that are saved.
local t = require "check"
local psocket = t.psocket
local check, equal, fails, raises = t.check, t.equal, t.fails, t.raises

local ca = t.pem("ca.pem")
if not ca or select(3, psocket.tls {}) == "UNSUPPORTED" then
  t.skip("tls options", "no certificates, or built without TLS")
  t.finish()
end
local rsa = { { chain = t.pem("rsa.pem"), private_key = t.pem("rsa.key") } }
local self = { { chain = t.pem("self.pem"), private_key = t.pem("self.key") } }

-- Makes a TLS connection within go; returns both ends and what both starttls returned.
local function connect(go, certs, client_options, server_options, ends)
  local c, s = t.tcp()
  if ends then c, s = ends() end
  local client, server
  go(function() server = { s:starttls(certs, server_options) } end,
     function() client = { c:starttls("localhost", client_options) } end)
  return c, s, client, server
end

local decides = pcall(psocket.tls, { ca = ca, decide = function() end })

t.modes("suites", function(go)
  local gcm, chacha = "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256"
  for _, suites in ipairs { gcm, chacha, { gcm }, { chacha, gcm }, chacha .. ":" .. gcm } do
    local first = type(suites) == "table" and suites[1] or suites:match("^[^:]+")
    local c, _, client = connect(go, rsa, { ca = ca }, { suites = suites })
    equal(client[1], true)
    equal(c:tlsinfo().suite, first)
  end
  local _, _, client, server = connect(go, rsa, { ca = ca, suites = gcm }, { suites = chacha })
  equal(client[1], false)
  equal(server[3], "TLS_HANDSHAKE")
end)

t.test("suites and versions that are none", function()
  raises("suites", psocket.tls, { suites = 5 })
  raises("suites", psocket.tls, { suites = { 5 } })
  raises("zero byte", psocket.tls, { suites = "TLS\0" })
  check(not psocket.tls { suites = "NONSENSE" })
  check(not psocket.tls { suites = {} })
  check(psocket.tls { min_version = "TLSv1.2" })
  check(psocket.tls { min_version = 0x0303 })
  check(psocket.tls { min_version = "TLSv1.3" })
  fails("UNSUPPORTED", psocket.tls { min_version = 0x0305 })
  fails("UNSUPPORTED", psocket.tls { min_version = "TLSv1.0" })
  fails("UNSUPPORTED", psocket.tls { min_version = 0x0301 })
  raises("min_version", psocket.tls, { min_version = "1.2" })
  raises("min_version", psocket.tls, { min_version = true })
  raises("min_version", psocket.tls, { min_version = 0 / 0 })
  raises("decide", psocket.tls, { decide = true })
  raises("clock", psocket.tls, { clock = 5 })
end)

if decides then
t.modes("decide: trust on first use", function(go)
  local known, asked = {}, 0
  local function tofu(peer, message, name)
    asked = asked + 1
    check(peer.subject:find("CN="), peer.subject)
    check(type(peer.issuer) == "string")
    check(peer.not_before < peer.not_after)
    equal(#peer.sha256, 64)
    check(type(message) == "string")
    equal(name, "CERT_SELF_SIGNED")
    if not known.pin then known.pin = peer.spki_sha256 end
    return known.pin == peer.spki_sha256
  end
  local options = { ca = ca, decide = tofu }
  for i = 1, 2 do
    local c, s, client, server = connect(go, self, options)
    equal(client[1], true)
    equal(server[1], true)
    equal(c:tlsinfo().peer_spki_sha256, known.pin)
    go(function() c:send("through") end, function() equal(s:recv(), "through") end)
    equal(asked, i)
  end
  known.pin = ("0"):rep(64)
  local c, _, client, server = connect(go, self, options)
  equal(client[1], false)
  equal(client[3], "CERT_SELF_SIGNED")
  equal(server[3], "TLS_ALERT")
  equal(c:isopen(), false)
end)
end

if decides then
t.modes("decide has the last word on what is valid, too", function(go)
  local seen
  local _, _, client = connect(go, rsa, { ca = ca, decide = function(...) seen = { n = select("#", ...), ... } return true end })
  equal(client[1], true)
  equal(seen.n, 1)
  for _, answer in ipairs { "yes", 1, false, {} } do
    client = select(3, connect(go, rsa, { ca = ca, decide = function() return answer end }))
    equal(client[1], false)
    equal(client[3], "CERT_REJECTED")
  end
  _, _, client = connect(go, rsa, { ca = ca, decide = function() end })
  equal(client[3], "CERT_REJECTED")
end)
end

if decides then
t.modes("decide may yield", function(go, nap)
  if not t.pcall_yields then return end
  local _, _, client = connect(go, rsa, { ca = ca, decide = function() coroutine.yield() nap(0.02) return true end })
  equal(client[1], true)
end)

t.modes("errors in decide refuse", function(go)
  if not t.pcall_yields then return end -- there they leave starttls
  for _, f in ipairs { function() error("oops") end, function() error({}) end, function() coroutine.yield() error("late") end,
                       function() local function deep() return 1 + deep() end return deep() end } do
    local _, _, client = connect(go, rsa, { ca = ca, decide = f })
    equal(client[1], false)
    equal(client[3], "CERT_REJECTED")
  end
  local _, _, client = connect(go, rsa, { ca = ca, decide = function(peer) return peer.subjcet:find("x") end })
  check(client[2]:find("refused by the application: ", 1, true) and client[2]:find("subjcet", 1, true), client[2])
end)

t.modes("what is no signature refuses", function(go)
  for _, f in ipairs { function() return ("x"):rep(100000) end, function() return "" end, function() return 5 end, function() end } do
    local _, _, client, server = connect(go, { { chain = rsa[1].chain, sign = f } }, { ca = ca })
    equal(client[1], false)
    equal(server[1], false)
    equal(server[3], "TLS_KEY")
  end
end)
end

if decides then
t.modes("decide about clients", function(go)
  local mine = { { chain = t.pem("client.pem"), private_key = t.pem("client.key") } }
  local subject
  local asks = { ca = ca, client_auth = "required", decide = function(peer) subject = peer.subject return true end }
  local _, _, client, server = connect(go, rsa, { ca = ca, identities = mine }, asks)
  equal(client[1], true)
  equal(server[1], true)
  check(subject)
end)
end

if decides then
t.modes("decide may use other sockets, and collect garbage", function(go)
  local a, b = psocket.pair()
  local sched = psocket.scheduler()
  local ran = 0
  local _, _, client = connect(go, rsa, { ca = ca, decide = function()
    a:send("asked")
    local got = b:recv()
    sched:add(function() ran = ran + 1 sched:sleep(0.001) ran = ran + 1 end)
    sched:run()
    for _ = 1, 20 do psocket.pair() t.tcp() end
    collectgarbage()
    collectgarbage()
    return got == "asked"
  end })
  equal(client[1], true)
  equal(ran, 2)
end)
end

if decides then
t.modes("decide and the socket it is asked about", function(go)
  local c, s
  for _, f in ipairs { function() return c:recv() end, function() return c:send("x") end, function() return c:read(1) end,
                        function() return c:starttls("localhost") end } do
    c, s = t.tcp()
    local first, message = nil, nil
    local _, _, client = connect(go, rsa, { ca = ca, decide = function() first, message = f() return true end }, nil,
                                 function() return c, s end)
    equal(first, nil)
    check(type(message) == "string", message)
    equal(client[1], true)
  end
  for _, close in ipairs { function() c:close() end, function() getmetatable(c).__gc(c) end } do
    c, s = t.tcp()
    local _, _, client = connect(go, rsa, { ca = ca, decide = function() close() return true end }, nil,
                                 function() return c, s end)
    equal(client[1], false)
    check(client[3] == "CLOSED_HERE" or client[3] == "INVALID", client[3])
    equal(c:isopen(), false)
  end
end)

t.modes("a handshake within a question", function(go)
  local c, s = t.tcp()
  local inner
  local _, _, client = connect(go, rsa, { ca = ca, decide = function()
    inner = select(3, c:starttls("localhost", { ca = ca, timeout = 0.05, decide = function() return true end }))
    return true
  end })
  equal(inner, "TIMEOUT")
  equal(client[1], true)
  s:close()
end)
end

if decides then
t.test("a handshake that decide has a word in sleeps while it waits, and can be closed", function()
  local c, s = t.tcp()
  local sched = psocket.scheduler()
  local name, other
  local settings = psocket.tls { ca = ca, decide = function() return true end }
  sched:add(function() name = select(3, c:starttls("localhost", settings)) end)
  sched:add(function() sched:sleep(0.3) fails("BUSY", c:recv()) other = tostring(c) sched:sleep(0.2) c:close() end)
  local cpu = os.clock()
  sched:run()
  check(os.clock() - cpu < 0.1, "CPU " .. os.clock() - cpu)
  equal(name, "CLOSED_HERE")
  check(other:find("open"))
  c, s = t.tcp()
  sched:add(function() name = select(3, c:starttls("localhost", settings, { timeout = 0.05 })) end)
  sched:run()
  equal(name, "TIMEOUT")
  check(s)
end)
end

if decides then
t.test("over a pair, and within another connection", function()
  local sched = psocket.scheduler()
  local a, b = psocket.pair()
  local asked, got = 0, nil
  local settings = psocket.tls { ca = ca, decide = function() asked = asked + 1 return true end }
  sched:add(function()
    assert(b:starttls(self))
    b = assert(b:wrap())
    assert(b:starttls(rsa))
    got = b:recv()
  end)
  sched:add(function()
    assert(a:starttls("localhost", settings))
    a = assert(a:wrap())
    assert(a:starttls("localhost", settings))
    a:send("deep")
  end)
  sched:run()
  equal(got, "deep")
  equal(asked, 2)
end)
end

if decides then
t.test("blocking", function()
  local l = assert(psocket.listen("127.0.0.1:0"))
  local child = t.process(([[
    local psocket = require "psocket"
    local asked = 0
    local s = assert(psocket.connect("127.0.0.1", %d, { timeout = 10 }))
    print(s:starttls("localhost", { decide = function() asked = asked + 1 return true end }))
    print(asked)
  ]]):format((select(2, l:getlocal()))))
  local s = assert(l:accept { timeout = 10 })
  equal(s:starttls(self), true)
  equal(child:read("*l"), "true")
  equal(child:read("*l"), "1")
  child:close()
end)
end

if decides then
t.test("settings live as long as handshakes need them, and no longer", function()
  local weak = setmetatable({}, { __mode = "v" })
  local c, s = t.tcp()
  local sched = psocket.scheduler()
  local ok
  sched:add(function()
    local options = { ca = ca }
    options.decide = function() return options ~= nil and c ~= nil end
    weak[1] = options.decide
    ok = c:starttls("localhost", options)
  end)
  for _ = 1, 3 do collectgarbage() end
  sched:add(function() s:starttls(rsa) end)
  sched:run()
  equal(ok, true)
  t.collect()
  equal(weak[1], nil, "the function is not kept")
end)
end

t.modes("clock", function(go)
  local info
  do
    local c = connect(go, rsa, { ca = ca })
    info = c:tlsinfo()
  end
  local function at(time)
    local _, _, client = connect(go, rsa, { ca = ca, clock = type(time) == "function" and time or function() return time end })
    return t.unpack(client)
  end
  equal(at((info.peer_not_before + info.peer_not_after) / 2), true)
  fails("CERT_EXPIRED", at(info.peer_not_after + 86400 * 365 * 100))
  fails("CERT_NOT_YET_VALID", at(info.peer_not_before - 86400 * 3))
  for _, broken in ipairs { function() error("oops") end, function() return "soon" end, function() return 0 / 0 end,
                            function() return math.huge end, function() end, function() coroutine.yield() end } do
    equal(pcall(psocket.tls, { ca = ca, clock = broken }), false)
  end
  local c, peer = t.tcp()
  raises("oops", c.starttls, c, "localhost", { ca = ca, clock = function() error("oops") end })
  equal(c:isopen(), true)
  check(peer)
end)

if decides then
t.modes("sessions are saved and loaded", function(go)
  local server = psocket.tls(rsa)
  local one = psocket.tls { ca = ca }
  local function visit(settings)
    local c, s
    local l = assert(psocket.listen("127.0.0.1:0"))
    local _, port = l:getlocal()
    c = assert(psocket.connect("127.0.0.1", port))
    s = assert(l:accept())
    go(function() check(s:starttls(server)) s:send("x") s:recv() end,
       function() check(c:starttls("localhost", settings)) c:recv() c:close() end)
    return c:tlsinfo().resumed
  end
  equal(one:savesessions() == psocket.tls({ ca = ca }):savesessions(), true, "nothing to save yet")
  equal(visit(one), false)
  local saved = one:savesessions()
  equal(type(saved), "string")
  check(#saved > 48, #saved)
  local two = psocket.tls { ca = ca }
  equal(two:loadsessions(saved), true)
  equal(#two:savesessions(), #saved)
  fails("INVALID", two:loadsessions(saved:sub(1, -2)))
  fails("INVALID", two:loadsessions("nonsense"))
  fails("INVALID", psocket.tls({ ca = ca, insecure_no_name = true }):loadsessions(saved))
  fails("INVALID", psocket.tls({ ca = ca, decide = function() return true end }):loadsessions(saved))
  raises("string expected", two.loadsessions, two)
  raises("psocket.tls", two.savesessions, {})
  local gone = psocket.tls { ca = ca }
  getmetatable(gone).__gc(gone)
  raises("collected", gone.savesessions, gone)
  raises("collected", gone.loadsessions, gone, saved)
end)
end

t.test("a saved session is resumed in another settings object", function()
  local server, port = psocket.tls(rsa), nil
  local sched = psocket.scheduler()
  local l = assert(psocket.bind(sched, "127.0.0.1:0", function(s) if s:starttls(server) then s:send("x") s:recv() end end))
  _, port = l:getlocal()
  local resumed, saved = {}, nil
  sched:add(function()
    for i = 1, 2 do
      local settings = psocket.tls { ca = ca }
      if saved then check(settings:loadsessions(saved)) end
      local c = assert(psocket.connect("127.0.0.1", port))
      check(c:starttls("localhost", settings))
      c:recv()
      resumed[i] = c:tlsinfo().resumed
      saved = settings:savesessions()
      c:close()
    end
    l:close()
  end)
  sched:run()
  equal(resumed[1], false)
  equal(resumed[2], true)
end)

t.finish()
