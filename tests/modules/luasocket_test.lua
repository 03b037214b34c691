-- luasocket_test.lua: examples/luasocket.lua by itself, then modules that were written for LuaSocket and LuaSec, unchanged,
-- over it: those whose servers the environment names (HTTP_URL, HTTPS_URL, FTP_PORT, MAIL_PORT, REDIS_PORT, PG_PORT).
-- Each runs outside of any coroutine and in tasks.
local t = require "check"
local adapter = require "luasocket"
local psocket = t.psocket
local check, equal = t.check, t.equal
local certs = (os.getenv("PSOCKET_CERTS") or "build/certs") .. "/"
local run = os.getenv "RUN" or "0" -- another number for each of those that run side by side
local sched = psocket.scheduler()
local socket = adapter.install(sched)
local ssl = require "ssl"

-- Runs f as a test outside of coroutines and as a task, beside which another one ticks.
local function both(name, f)
  t.test(name .. ", blocking", f)
  t.test(name .. ", in a task", function()
    local done
    sched:add(function() f() done = true end)
    local limit = psocket.now() + 20
    while not done and sched:step(0.2) do
      if psocket.now() > limit then error("not finished in time") end
    end
    check(done, "the task did not come to its end")
  end)
end

-- A connection: ours, and psocket's other end.
local function pair()
  local l = assert(psocket.listen("127.0.0.1:0"))
  local c = socket.tcp()
  c:settimeout(5)
  assert(c:connect("127.0.0.1", (select(2, l:getlocal()))))
  local s = assert(l:accept())
  l:close()
  return c, s
end

both("receive: lines, counts, all, prefixes, partial results", function()
  local c, s = pair()
  s:send("first\r\nsec\rond\n\nabcdefgh")
  equal(c:receive(), "first")
  equal(c:receive("*l", "pre"), "presecond")
  equal(c:receive("*l"), "")
  equal(c:receive(3), "abc")
  equal(c:receive(6, "xyz"), "xyzdef")
  equal(c:receive(2, "full"), "full")
  c:settimeout(0.1)
  local data, err, partial = c:receive(10)
  equal(data, nil)
  equal(err, "timeout")
  equal(partial, "gh")
  s:send("rest\nhalf")
  c:settimeout(5)
  equal(c:receive("*l", partial), "ghrest")
  c:settimeout(0.1)
  data, err, partial = c:receive("*l")
  equal(err, "timeout")
  equal(partial, "half")
  s:send("1\n2\n3")
  s:close()
  c:settimeout(5)
  equal(c:receive("*a", ">"), ">1\n2\n3")
  data, err, partial = c:receive("*a")
  equal(data, nil)
  equal(err, "closed")
  equal(partial, "")
  data, err, partial = c:receive("*l", "p")
  equal(err, "closed")
  equal(partial, "p")
  t.raises("invalid receive pattern", c.receive, c, "*x")
end)

both("send with indices, statistics", function()
  local c, s = pair()
  equal(c:send("hello"), 5)
  equal(c:send("hello", 2, 3), 3)
  equal(c:send("hello", -2), 5)
  equal(c:send("hello", 4), 5)
  equal(c:send("hello", 1, -2), 4)
  equal(c:send("", 0), 0)
  equal(c:send(12), 2)
  equal(select(3, c:getpeername()), "inet")
  equal(s:read(17), "helloellolohell12")
  local received, sent = c:getstats()
  equal(sent, 5 + 2 + 2 + 2 + 4 + 2)
  equal(received, 0)
  s:close()
end)

both("large data there and back", function()
  local c, s = pair()
  local big = ("0123456789"):rep(300000)
  local echo = sched:add(function()
    s:settimeout(10)
    local back, n = {}, 0
    while n < #big do
      back[#back + 1] = assert(s:recv())
      n = n + #back[#back]
    end
    s:send(table.concat(back))
  end)
  if coroutine.running() and select(2, coroutine.running()) ~= true then
    equal(c:send(big), #big)
    equal(c:receive(#big), big)
  else -- the other end is a task, which does not run while this one blocks
    c:settimeout(0)
    local at, got = 1, {}
    while at <= #big do
      local last, _, partial = c:send(big, at)
      at = (last or partial) + 1
      sched:step(0.01)
    end
    local need = #big
    while need > 0 do
      local data, _, partial = c:receive(need)
      data = data or partial
      got[#got + 1] = data
      need = need - #data
      sched:step(0.01)
    end
    equal(table.concat(got), big)
  end
  check(echo)
end)

both("time limits", function()
  local c = pair()
  local before = psocket.now()
  c:settimeout(0.2)
  equal(select(2, c:receive()), "timeout")
  c:settimeout(5)
  c:settimeout(0.2, "t")
  equal(select(2, c:receive()), "timeout")
  local took = psocket.now() - before
  check(took > 0.35 and took < 3, took)
  c:settimeout(0)
  equal(select(2, c:receive()), "timeout")
  equal(select(2, socket.tcp():connect("127.0.0.1", 1)), "connection refused")
end)

both("select", function()
  local c, s = pair()
  local other = pair()
  local r, w, err = socket.select({ c, other }, { c }, 0)
  equal(#r, 0)
  equal(w[1], c)
  equal(w[c], 1)
  equal(err, nil)
  r, w, err = socket.select({ c, other }, nil, 0.05)
  equal(#r + #w, 0)
  equal(err, "timeout")
  s:send("x\ny\n")
  r = socket.select({ other, c }, {}, 5)
  equal(#r, 1)
  equal(r[1], c)
  equal(r[c], 1)
  equal(c:receive(), "x")
  equal(socket.select({ c }, nil, 0)[1], c) -- what is in the buffer counts
  equal(c:receive(), "y")
  equal(#socket.select({ c }, nil, 0), 0)
  s:close()
  equal(socket.select({ c }, nil, 5)[1], c)
  equal(select(2, c:receive()), "closed")
  local l = assert(socket.bind("127.0.0.1", 0))
  local _, port = l:getsockname()
  equal(#socket.select({ l }, nil, 0.05), 0)
  local d = assert(socket.connect("127.0.0.1", port))
  equal(socket.select({ l }, nil, 5)[1], l)
  local a = assert(l:accept())
  d:send("z\n")
  equal(a:receive(), "z")
  equal(a:getpeername(), "127.0.0.1")
  -- connecting with settimeout(0)
  local e = socket.tcp()
  e:settimeout(0)
  local ok, why = e:connect("127.0.0.1", port)
  if not ok then
    equal(why, "timeout")
    equal(select(2, socket.select(nil, { e }, 5))[1], e)
    check(e:connect("127.0.0.1", port) or select(2, e:connect("127.0.0.1", port)) == "already connected")
  end
  check(socket.select({ l }, nil, 5)[1] == l)
  l:settimeout(0)
  l:close()
  equal(select(2, l:accept()), "closed")
  equal(select(2, l:getsockname()), "closed")
end)

both("udp", function()
  local a, b = socket.udp(), socket.udp()
  assert(a:setsockname("127.0.0.1", 0))
  local _, port = a:getsockname()
  b:settimeout(5)
  a:settimeout(5)
  assert(b:setpeername("127.0.0.1", port))
  equal(b:send("one"), 3)
  local data, ip, from = a:receivefrom()
  equal(data, "one")
  equal(ip, "127.0.0.1")
  equal(a:sendto("two", ip, from), 3)
  equal(b:receive(), "two")
  a:settimeout(0)
  equal(select(2, a:receive()), "timeout")
  b:send("abcdef")
  a:settimeout(5)
  equal(a:receive(3), "abc")
end)

both("try, newtry, protect", function()
  local finalized = 0
  local try = socket.newtry(function() finalized = finalized + 1 end)
  local f = socket.protect(function(...) return try(...) end)
  equal(select("#", f(1, 2, 3)), 3)
  local a, b = f(nil, "why", "more")
  equal(a, nil)
  equal(b, "why")
  equal(finalized, 1)
  local g = socket.protect(function() local c, s = pair() s:send("in here\n") return socket.try(c:receive()) end)
  equal(g(), "in here")
  t.raises("real", socket.protect(function() error("real") end))
  equal(select(2, socket.protect(function() socket.try(nil, { 7 }) end)())[1], 7)
  equal(socket.skip(2, 1, 2, 3), 3)
end)

both("dns, time", function()
  equal(socket.dns.toip("127.0.0.1"), "127.0.0.1")
  equal(socket.dns.toip("localhost"), "127.0.0.1")
  equal(socket.dns.toip("::1"), "::1")
  equal(socket.dns.getaddrinfo("127.0.0.1")[1].addr, "127.0.0.1")
  check(math.abs(socket.gettime() - os.time()) < 2)
  local before = socket.gettime()
  socket.sleep(0.05)
  check(socket.gettime() - before > 0.04)
end)

both("an iterator over a coroutine.wrap", function()
  local c, s = pair()
  local l = assert(psocket.listen("127.0.0.1:0"))
  s:send("1\n2\n3\n")
  s:close()
  local all = {}
  for line in coroutine.wrap(function()
    local second = assert(socket.connect("127.0.0.1", (select(2, l:getlocal())))) -- connects and sleeps there, too
    socket.sleep(0.01)
    second:close()
    while true do
      local line = c:receive()
      if not line then return end
      coroutine.yield(line)
    end
  end) do all[#all + 1] = line end
  equal(table.concat(all), "123")
end)

if select(3, psocket.tls {}) == "UNSUPPORTED" then t.skip("tls", "no TLS in this build") else
  both("wrap, sni, dohandshake", function()
    local l = assert(psocket.listen("127.0.0.1:0"))
    local _, port = l:getlocal()
    sched:add(function()
      for _ = 1, 4 do
        local s = assert(socket.tcp())
        s.s = l:accept { timeout = 10 }
        setmetatable(s, getmetatable(pair()))
        s = assert(ssl.wrap(s, { mode = "server", certificate = certs .. "rsa.pem", key = certs .. "rsa.key" }))
        s:settimeout(5)
        if s:dohandshake() then s:send("hello over TLS\n") end
      end
    end)
    local function client(name, params)
      local result
      local function go()
        local c = socket.tcp()
        c:settimeout(5)
        assert(c:connect("127.0.0.1", port))
        c = assert(ssl.wrap(c, params))
        if name then c:sni(name) end
        local ok, err = c:dohandshake()
        result = { ok, ok and c:receive() or err, c }
      end
      local task = sched:add(go) -- the server is a task, too
      if coroutine.running() and select(2, coroutine.running()) ~= true then
        while coroutine.status(task) ~= "dead" do coroutine.yield() end
      else
        while coroutine.status(task) ~= "dead" do sched:step(0.1) end
      end
      return t.unpack(result)
    end
    local ok, line, c = client("localhost", { mode = "client", protocol = "any", verify = "none", cafile = certs .. "ca.pem" })
    equal(ok, true)
    equal(line, "hello over TLS")
    check(c:info("protocol"):find("TLSv1"), c:info("protocol"))
    equal((client("elsewhere.example", { mode = "client", verify = "none", cafile = certs .. "ca.pem" })), false)
    equal((client("localhost", { mode = "client", verify = "none" })), false) -- LuaSec would have taken it
    equal((client("localhost", { mode = "client", insecure_no_verify = true })), true)
  end)
end

--- Modules of others

local function module_of(name)
  local found, module = pcall(require, name)
  if not found then t.skip(name, "not installed for this Lua") end
  return found and module
end

local http, ltn12 = module_of "socket.http", module_of "ltn12"
local url = os.getenv "HTTP_URL"
if http and url and url ~= "" then
  both("LuaSocket's http", function()
    local body, code, headers = http.request(url .. "/hello.txt")
    equal(body, "hello from a file\n")
    equal(code, 200)
    equal(headers["content-length"], "18")
    equal(select(2, http.request(url .. "/none")), 404)
    local got = {}
    local ok
    ok, code = http.request { url = url .. "/big.bin", sink = ltn12.sink.table(got) }
    equal(code, 200)
    check(ok and #table.concat(got) == 5000000)
    equal(select(2, http.request "http://127.0.0.1:1/"), "connection refused")
  end)
end
local tls_url = os.getenv "HTTPS_URL"
if http and tls_url and tls_url ~= "" then
  both("LuaSocket's http on our ssl.https", function()
    local got = {}
    local ok, code = http.request { url = tls_url .. "/hello.txt", sink = ltn12.sink.table(got), cafile = certs .. "ca.pem" }
    equal(ok, 1, code)
    equal(table.concat(got), "hello from a file\n")
    local body, why = http.request(tls_url .. "/hello.txt")
    equal(body, nil)
    check(tostring(why):find("trusted"), why)
  end)
  package.loaded["ssl.https"] = nil
  local theirs = module_of "ssl.https"
  if theirs then
    both("LuaSec's https", function()
      local got = {}
      local ok, code = theirs.request { url = tls_url .. "/big.bin", sink = ltn12.sink.table(got), cafile = certs .. "ca.pem" }
      equal(ok, 1, code)
      equal(#table.concat(got), 5000000)
      check(not theirs.request { url = tls_url .. "/big.bin", sink = ltn12.sink.table(got), cafile = certs .. "other_ca.pem" })
    end)
  end
end

local smtp = module_of "socket.smtp"
local mail_port = tonumber(os.getenv "MAIL_PORT")
if smtp and mail_port then
  both("LuaSocket's smtp", function()
    local ok, why = smtp.send { from = "<ann@example.org>", rcpt = { "<bob@example.org>", "<cyd@example.org>" }, server = "127.0.0.1", port = mail_port,
      source = smtp.message { headers = { subject = "hello" }, body = "A line.\r\n.\r\nA dot stood alone.\r\n" .. ("x"):rep(70) .. "\r\n" } }
    equal(ok, 1, why)
    local bad
    ok, bad = smtp.send { from = "<ann@example.org>", rcpt = "<nobody@example.org>", server = "127.0.0.1", port = mail_port, source = smtp.message { body = "x" } }
    equal(ok, nil)
    check(tostring(bad):find("550"), bad)
  end)
end

local ftp = module_of "socket.ftp"
local ftp_port = os.getenv "FTP_PORT"
if ftp and ftp_port and ftp_port ~= "" then
  both("LuaSocket's ftp", function()
    local base = "ftp://user:pass@127.0.0.1:" .. ftp_port
    local ok, why = ftp.put(base .. "/put" .. run .. ".bin;type=i", ("abc\0"):rep(250000))
    equal(ok, 1000000, why)
    equal(ftp.get(base .. "/put" .. run .. ".bin;type=i"), ("abc\0"):rep(250000))
    local got = {}
    ok, why = ftp.get { host = "127.0.0.1", port = ftp_port, user = "user", password = "pass", command = "nlst", argument = "", sink = ltn12.sink.table(got) }
    equal(ok, 1, why)
    check(table.concat(got):find("put" .. run .. ".bin", 1, true), table.concat(got))
    check(not ftp.get(base .. "/none;type=i"))
  end)
end

local redis_port = tonumber(os.getenv "REDIS_PORT")
local redis = redis_port and module_of "redis"
if redis then
  both("lua-redis: commands, pipeline, transactions, pubsub", function()
    local function connect()
      local r = redis.connect { host = "127.0.0.1", port = redis_port, timeout = 5 }
      r:select(run)
      return r
    end
    local r = connect()
    equal(r:ping(), true)
    r:flushdb()
    r:set("k", ("v"):rep(300000))
    equal(#r:get("k"), 300000)
    for i = 1, 100 do r:rpush("list", i) end
    equal(#r:lrange("list", 0, -1), 100)
    if not table.move and not table.pack then -- its pipelines know Lua 5.1 only
      equal(#r:pipeline(function(p) for i = 1, 50 do p:incr("n" .. i) end end), 50)
    end
    local replies, n = r:transaction(function(tr)
      tr:set("a", 1)
      tr:incrby("a", 41)
      tr:get("a")
    end)
    equal(n, 3)
    equal(replies[3], "42")
    replies = r:transaction({ watch = "a", cas = true, retry = 2 }, function(tr)
      local a = tr:get("a")
      tr:multi()
      tr:set("a", ("%d"):format(a + 1))
      tr:get("a")
    end)
    equal(replies[2], "43")
    local publisher, seen = connect(), {}
    for message, abort in r:pubsub { subscribe = { "news" .. run }, psubscribe = { "w" .. run .. "*" } } do
      if message.kind == "psubscribe" then
        publisher:publish("news" .. run, "one")
        publisher:publish("w" .. run .. "eather", "two")
      elseif message.kind == "message" then seen[#seen + 1] = message.payload
      elseif message.kind == "pmessage" then
        seen[#seen + 1] = message.payload
        abort()
      end
    end
    equal(table.concat(seen, " "), "one two")
  end)
end

-- What pgmoon and its like say to PostgreSQL: an upgrade to TLS, then the protocol's version 3.
local pg_port = tonumber(os.getenv "PG_PORT")
if pg_port then
  local function int(n, size)
    local bytes = {}
    for i = size, 1, -1 do bytes[i], n = string.char(n % 256), math.floor(n / 256) end
    return table.concat(bytes)
  end
  local function number(bytes)
    local n = 0
    for i = 1, #bytes do n = n * 256 + bytes:byte(i) end
    return n
  end
  both("PostgreSQL through an upgrade to TLS", function()
    local c = socket.tcp()
    c:settimeout(10)
    assert(c:connect("127.0.0.1", pg_port))
    c:send(int(8, 4) .. int(80877103, 4)) -- SSLRequest
    equal(c:receive(1), "S")
    c = assert(ssl.wrap(c, { mode = "client", protocol = "any", verify = "peer", cafile = certs .. "ca.pem" }))
    c:sni("localhost")
    local ok, why = c:dohandshake()
    equal(ok, true, why)
    local function send(kind, payload) assert(c:send(kind .. int(#payload + 4, 4) .. payload)) end
    local function receive()
      local kind = assert(c:receive(1))
      local n = number(c:receive(4)) - 4
      return kind, n > 0 and c:receive(n) or ""
    end
    send("", int(196608, 4) .. "user\0tester\0database\0postgres\0\0")
    local kind, payload
    repeat
      kind, payload = receive()
      if kind == "R" and number(payload:sub(1, 4)) == 3 then send("p", "secret\0") end
      if kind == "E" then error(payload) end
    until kind == "Z"
    send("Q", "select repeat('x', 100000) from generate_series(1, 30)\0")
    local rows, bytes = 0, 0
    repeat
      kind, payload = receive()
      if kind == "E" then error(payload) end
      if kind == "D" then rows, bytes = rows + 1, bytes + #payload - 6 end
    until kind == "Z"
    equal(rows, 30)
    equal(bytes, 3000000)
    send("X", "")
    c:close()
  end)
end
t.finish()
