-- TLS: starttls on both sides, and what comes of it.
local t = require "check"
local psocket = t.psocket
local check, equal, fails, raises = t.check, t.equal, t.fails, t.raises

local ca = t.pem("ca.pem")
if not ca then
  t.test("certificates are there", function() error("no certificates: run tests/certs.sh, set PSOCKET_CERTS") end)
  t.finish()
end
if select(3, psocket.tls {}) == "UNSUPPORTED" then
  t.skip("tls", "built without TLS")
  t.finish()
end
local rsa = { { chain = t.pem("rsa.pem"), private_key = t.pem("rsa.key") } }
local ec = { { chain = t.pem("ec.pem"), private_key = t.pem("ec.key") } }
local trust = psocket.tls { ca = ca }

-- Makes a TLS connection over TCP within go; returns both ends.
local function connect(go, certs, name, client_options, server_options)
  local c, s = t.tcp()
  local client, server
  go(function()
    server = { s:starttls(certs, server_options) }
  end, function()
    client = { c:starttls(name or "localhost", client_options or trust) }
  end)
  return c, s, client, server
end

for title, certs in pairs { RSA = rsa, EC = ec } do
  t.modes("a connection with an " .. title .. " certificate", function(go)
    local c, s, client, server = connect(go, certs, nil, psocket.tls { ca = ca })
    equal(client[1], true)
    equal(#client, 1)
    equal(server[1], true)
    equal(#server, 1)
    equal(c:istls(), true)
    equal(s:istls(), true)
    go(function()
      equal(c:send("over TLS"), true)
      equal(c:recv(), "and back")
      fails("CLOSED", c:recv())
    end, function()
      equal(s:recv(), "over TLS")
      s:send("and back")
      s:close()
    end)
    local info = c:tlsinfo()
    equal(info.version, "TLSv1.3")
    check(info.suite:find("^TLS_AES_") or info.suite:find("^TLS_CHACHA20_"), info.suite)
    equal(info.resumed, false)
    check(info.peer_sha256:find("^%x+$") and #info.peer_sha256 == 64)
    check(#info.peer_spki_sha256 == 64)
    check(info.peer_not_before < info.peer_not_after)
    equal(s:tlsinfo().server_name, "localhost")
    equal(s:tlsinfo().peer_sha256, nil)
  end)
end

t.modes("starttls again answers nil alone", function(go)
  local c, s = connect(go, rsa)
  local again = { n = select("#", c:starttls("localhost")), c:starttls("localhost") }
  equal(again.n, 1)
  equal(again[1], nil)
  equal(select("#", s:starttls(rsa)), 1)
  equal((s:starttls(rsa)), nil)
  equal(c:isopen(), true)
  go(function() c:send("still fine") equal(s:recv(), "still fine") end)
  local _, port = c:getpeer()
  equal(tostring(c), "psocket: 127.0.0.1:" .. port .. " (open, TLSv1.3)")
end)

t.modes("names: addresses, wildcards, and the wrong one", function(go)
  for _, name in ipairs { "127.0.0.1", "::1", "example.test", "a.wild.test" } do
    local _, _, client = connect(go, rsa, name)
    equal(client[1], true, name)
  end
  local c, s, client, server = connect(go, rsa, "other.test")
  equal(client[1], false)
  equal(client[3], "CERT_NAME")
  check(client[2]:find("other.test") or client[2]:find("localhost"), client[2])
  equal(c:isopen(), false)
  equal(server[1], false)
  equal(server[3], "TLS_ALERT")
  equal(s:isopen(), false)
end)

t.modes("certificates that are refused", function(go)
  for file, name in pairs { expired = "CERT_EXPIRED", untrusted = "CERT_UNTRUSTED", self = "CERT_SELF_SIGNED", wrong = "CERT_NAME" } do
    local certs = { { chain = t.pem(file .. ".pem"), private_key = t.pem(file .. ".key") } }
    local c, s, client, server = connect(go, certs)
    equal(client[1], false, file)
    equal(client[3], name)
    check(#client[2] > 5)
    equal(server[1], false)
    equal(c:isopen(), false)
    fails("CLOSED_HERE", c:recv())
    fails("CLOSED_HERE", s:send("x"))
    local _, _, loud = connect(go, certs, "localhost", { insecure_no_verify = true })
    equal(loud[1], true, file .. " with insecure_no_verify")
  end
end)

t.modes("options: ca, ca_file, insecure_no_name, pins", function(go)
  local function try(name, options) local _, _, client = connect(go, rsa, name, options) return t.unpack(client) end
  equal(try("localhost", { ca = ca }), true)
  equal(try("localhost", { ca_file = (os.getenv("PSOCKET_CERTS") or "build/certs") .. "/ca.pem", timeout = 5 }), true)
  fails("FILE", try("localhost", { ca_file = "/nonexistent.pem" }))
  fails("TLS_PEM", try("localhost", { ca = "nonsense" }))
  equal(try("elsewhere.test", { ca = ca, insecure_no_name = true }), true)
  fails("CERT_UNTRUSTED", try("localhost", { ca = t.pem("other_ca.pem") }))
  local c = connect(go, rsa)
  local pin = c:tlsinfo().peer_spki_sha256
  equal(try("localhost", { ca = ca, pins = { pin } }), true)
  fails("CERT_PIN", try("localhost", { ca = ca, pins = { ("0"):rep(64) } }))
  local binary = pin:gsub("%x%x", function(h) return string.char(tonumber(h, 16)) end)
  equal(try("localhost", psocket.tls { ca = ca, pins = { ("\0"):rep(32), binary } }), true)
end)

t.modes("ALPN", function(go)
  local _, _, client, server = connect(go, rsa, nil, { ca = ca, alpn = { "http/1.1", "h2" } }, { alpn = { "h2", "http/1.1" } })
  equal(client[1], true)
  equal(client[2], "h2")
  equal(server[2], "h2")
  local c
  c, _, client = connect(go, rsa, nil, { ca = ca, alpn = { "h2" } })
  equal(client[1], true)
  equal(client[2], nil)
  equal(c:tlsinfo().alpn, nil)
  _, _, client, server = connect(go, rsa, nil, { ca = ca, alpn = { "a" } }, { alpn = { "b" } })
  equal(client[1], false)
  equal(server[3], "TLS_ALPN")
end)

t.modes("several certificates, client certificates", function(go)
  local both = { rsa[1], ec[1], { chain = t.pem("wrong.pem"), private_key = t.pem("wrong.key") } }
  local c, _, client = connect(go, both, "wrong.test")
  equal(client[1], true)
  check(c:tlsinfo().peer_subject:find("wrong"), c:tlsinfo().peer_subject)
  local mine = { { chain = t.pem("client.pem"), private_key = t.pem("client.key") } }
  local asks = { ca = ca, client_auth = "required" }
  local s
  _, s, client = connect(go, rsa, nil, { ca = ca, identities = mine }, asks)
  equal(client[1], true)
  check(s:tlsinfo().peer_subject, "the client's name")
  local server
  _, _, _, server = connect(go, rsa, nil, trust, asks)
  equal(server[1], false)
  equal(server[3], "CERT_MISSING")
end)

t.test("settings objects", function()
  check(tostring(trust))
  local server = psocket.tls { rsa[1], alpn = { "x" } }
  local c, s = psocket.pair()
  t.scheduled(function() equal(select(2, s:starttls(server, { timeout = 5 })), "x") end,
              function() equal(select(2, c:starttls("localhost", psocket.tls { ca = ca, alpn = { "x" } }, { timeout = 5 })), "x") end)
  fails("TLS_PEM", psocket.tls { ca = "nonsense" })
  fails("TLS_KEY_MISMATCH", psocket.tls { { chain = t.pem("rsa.pem"), private_key = t.pem("ca.key") } })
  raises("table expected", psocket.tls)
  raises("table expected", psocket.tls, 5)
  raises("certificate 1", psocket.tls, { 5 })
  raises("no chain", psocket.tls, { {} })
  raises("no private_key", psocket.tls, { { chain = "x" } })
  raises("private_key must be a string", psocket.tls, { { chain = "x", private_key = true } })
  raises("ca must be a string", psocket.tls, { ca = 5 })
  raises("alpn", psocket.tls, { alpn = "h2" })
  raises("alpn", psocket.tls, { alpn = { 1 } })
  raises("pin 1", psocket.tls, { pins = { "short" } })
  raises("client_auth", psocket.tls, { client_auth = "please" })
end)

t.test("wrong arguments of starttls raise and leave the socket", function()
  local c, s = t.tcp()
  raises("string expected", c.starttls, c)
  raises("string expected", c.starttls, c, {})
  raises("table expected", s.starttls, s)
  raises("table expected", s.starttls, s, "localhost")
  raises("table expected", c.starttls, c, "localhost", "x")
  raises("psocket.tls", c.starttls, c, "localhost", c)
  raises("psocket.tls", s.starttls, s, io.stdout)
  raises("zero byte", c.starttls, c, "localhost\0.evil.test")
  raises("timeout", c.starttls, c, "localhost", { timeout = "x" })
  raises("certificate 1", s.starttls, s, { "x" })
  c:send("fine")
  equal(s:recv(), "fine")
end)

t.test("failures close the socket", function()
  local c, s = t.tcp()
  local ok, message, name = s:starttls({ { chain = "nonsense", private_key = "nonsense" } })
  equal(ok, false)
  equal(name, "TLS_PEM")
  check(message)
  equal(s:isopen(), false)
  fails("CLOSED", c:recv())
  c, s = t.tcp()
  equal((s:starttls({})), false)
  equal(s:isopen(), false)
  equal((c:starttls("localhost", trust)), false)
  equal(c:isopen(), false)
  c = t.tcp()
  c:close()
  fails("CLOSED_HERE", c:starttls("localhost", trust))
end)

t.test("a client with unread plaintext refuses; a server takes it for the start of TLS", function()
  local c, s = t.tcp()
  c:unrecv("220 plaintext injected")
  fails("PLAINTEXT", c:starttls("localhost", trust))
  equal(c:recv(), "220 plaintext injected", "what had arrived is not lost")
  c, s = t.tcp()
  t.scheduled(function()
    local hello = s:recv()
    equal(hello:byte(), 22)
    s:unrecv(hello:sub(6))
    s:unrecv(hello:sub(1, 5))
    equal(s:starttls(rsa), true)
  end, function() equal(c:starttls("localhost", trust), true) end)
end)

t.modes("a handshake that stalls times out and is closed", function(go)
  local c, s = t.tcp()
  go(function()
    local before = psocket.now()
    local ok, _, name = c:starttls("localhost", { ca = ca, timeout = 0.1 })
    equal(ok, false)
    equal(name, "TIMEOUT")
    check(psocket.now() - before < 2)
    equal(c:isopen(), false)
  end)
  c, s = t.tcp()
  go(function()
    s:settimeout(0.05)
    local ok, _, name = s:starttls(rsa)
    equal(ok, false)
    equal(name, "TIMEOUT")
  end)
end)

t.modes("a peer that talks no TLS", function(go)
  local c, s = t.tcp()
  go(function() equal((c:starttls("localhost", trust)), false) equal(c:isopen(), false) end,
     function() s:send("HTTP/1.1 400 Bad Request\r\n\r\n") s:recv() s:close() end)
  c, s = t.tcp()
  go(function() equal((s:starttls(rsa)), false) equal(s:isopen(), false) end,
     function() c:send("GET / HTTP/1.1\r\n\r\n") c:recv() c:close() end)
end)

t.modes("close during a handshake wakes it; a second caller is refused", function(go, nap)
  local c = t.tcp()
  local peer = c
  local name
  local sock, other = t.tcp()
  go(function() name = select(3, sock:starttls("localhost", trust)) end,
     function() nap(0.02) fails("BUSY", sock:recv()) fails("BUSY", sock:send("x")) sock:close() end)
  equal(name, "CLOSED_HERE")
  check(peer and other)
end)

t.modes("a cut connection is told from a clean end", function(go, nap)
  local inner_c, inner_s = t.tcp()
  go(function()
    equal(inner_s:starttls(rsa), true)
    inner_s:send("last words")
    inner_s:close()
  end, function()
    equal(inner_c:starttls("localhost", trust), true)
    equal(inner_c:recv(), "last words")
    fails("CLOSED", inner_c:recv())
  end)
  -- a proxy that drops the connection without a word
  local front, client = t.tcp()
  local back, server = t.tcp()
  local cut, name = false, nil
  local function forward(from, to)
    return function()
      local data = from:recv()
      while data do
        to:send(data)
        data = from:recv()
      end
    end
  end
  go(function()
    equal(server:starttls(rsa), true)
    server:send("half of it")
    equal(server:recv(), "got it")
    cut = true
  end, function()
    equal(front:starttls("localhost", trust), true)
    equal(front:recv(), "half of it")
    front:send("got it")
    name = select(3, front:recv())
  end, forward(client, back), forward(back, client), function()
    while not cut do nap(0.01) end
    client:close()
    back:close()
  end)
  equal(name, "TRUNCATED")
end)

t.modes("large data both ways at once", function(go)
  local c, s = connect(go, ec)
  local up, down = ("up and "):rep(300000), ("down, "):rep(300000)
  local function all(sock, n)
    local parts = {}
    while n > 0 do
      local d, message = sock:recv()
      if not d then error(message) end
      parts[#parts + 1] = d
      n = n - #d
    end
    return table.concat(parts)
  end
  local at_s, at_c
  go(function() equal(c:send(up), true) end, function() at_c = all(c, #down) end,
     function() equal(s:send(down), true) end, function() at_s = all(s, #up) end)
  equal(at_s == up, true)
  equal(at_c == down, true)
end)

t.modes("several records in one read come out one by one", function(go)
  local c, s = connect(go, rsa)
  go(function()
    for i = 1, 50 do s:send("record " .. i) end
    s:shutdown("send")
    for i = 1, 50 do equal(c:recv(), "record " .. i) end
    fails("CLOSED", c:recv())
    c:send("half-closed")
    equal(s:recv(), "half-closed")
  end)
end)

t.test("certificates are parsed once for a table", function()
  local c, s = psocket.pair()
  local function handshake(certs)
    c, s = psocket.pair()
    t.scheduled(function() check(s:starttls(certs)) end, function() check(c:starttls("localhost", trust)) end)
  end
  local certs = { { chain = rsa[1].chain, private_key = rsa[1].private_key } }
  handshake(certs)
  certs[1].chain = "replaced"
  handshake(certs) -- the settings made of it before
  local weak = setmetatable({ certs }, { __mode = "v" })
  certs = nil
  t.collect()
  equal(weak[1], nil, "the table is not kept")
end)

t.test("blocking, as a client", function()
  local child = t.process(([[
    local psocket = require "psocket"
    local sched = psocket.scheduler()
    local function read(name) local f = assert(io.open(%q .. name, "rb")) local s = f:read("*a") f:close() return s end
    local certs = { { chain = read("rsa.pem"), private_key = read("rsa.key") } }
    local served = 0
    local l = assert(psocket.bind(sched, "127.0.0.1:0", function(s)
      if s:starttls(certs) then
        s:read_until("\r\n\r\n")
        s:send("HTTP/1.1 200 OK\r\nConnection: Close\r\nContent-Length: 13\r\n\r\nHello, world!")
      end
      served = served + 1
    end))
    print((select(2, l:getlocal())))
    io.stdout:flush()
    local stop = psocket.now() + 15
    while served < 2 and psocket.now() < stop do sched:step(0.1) end
  ]]):format((os.getenv("PSOCKET_CERTS") or "build/certs") .. "/"))
  local port = tonumber((child:read("*l")))
  local s = assert(psocket.connect("127.0.0.1", port, { timeout = 10 }))
  equal(s:istls(), false)
  equal(s:starttls("localhost", trust), true)
  equal(s:istls(), true)
  s:send("GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
  local all = {}
  while true do
    local data, _, name = s:recv()
    if not data then equal(name, "CLOSED") break end
    all[#all + 1] = data
  end
  check(table.concat(all):find("Hello, world!", 1, true))
  s = assert(psocket.connect("127.0.0.1", port, { timeout = 10 }))
  fails("CERT_NAME", s:starttls("other.test", trust))
  child:close()
end)

t.test("blocking, as a server", function()
  local l = assert(psocket.listen("127.0.0.1:0"))
  local child = t.process(([[
    local psocket = require "psocket"
    local s = assert(psocket.connect("127.0.0.1", %d, { timeout = 10 }))
    assert(s:starttls("localhost", { ca_file = %q }))
    s:send("to the server")
    print(s:recv())
  ]]):format((select(2, l:getlocal())), (os.getenv("PSOCKET_CERTS") or "build/certs") .. "/ca.pem"))
  local s = assert(l:accept { timeout = 10 })
  equal(s:starttls(rsa), true)
  equal(s:recv(), "to the server")
  s:send("to the client")
  equal(child:read("*l"), "to the client")
  child:close()
end)

t.test("TLS within TLS, through a wrapped socket", function()
  local sched = psocket.scheduler()
  local a, b = psocket.pair()
  local got, answer
  sched:add(function()
    assert(b:starttls(rsa))
    local outer = b
    b = assert(psocket.wrap(b))
    fails("INVALID", outer:recv())
    assert(b:starttls(ec))
    got = b:recv()
    b:send("answer")
  end)
  sched:add(function()
    assert(a:starttls("localhost", trust))
    a = assert(a:wrap())
    assert(a:starttls("127.0.0.1", trust))
    a:send("question")
    answer = a:recv()
  end)
  sched:run()
  equal(got, "question")
  equal(answer, "answer")
  equal(a:tlsinfo().version, "TLSv1.3")
end)

t.finish()
