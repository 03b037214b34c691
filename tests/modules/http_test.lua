-- http_test.lua: examples/http.lua against servers that say exactly what a case needs, its own server side, and those
-- named in the environment (HTTP_URL, HTTPS_URL: folders with hello.txt and big.bin), in tasks and outside of them.
local t = require "check"
local http = require "http"
local psocket = t.psocket
local check, equal, fails = t.check, t.equal, t.fails
local certs = (os.getenv("PSOCKET_CERTS") or "build/certs") .. "/"
local no_tls = select(3, psocket.tls {}) == "UNSUPPORTED"

-- Runs f(url) in a task beside a server that calls serve(s, n) for its nth connection.
local function with(serve, f, certificates)
  local sched, done, n = psocket.scheduler(), false, 0
  local listener = assert(psocket.bind(sched, "127.0.0.1:0", function(s)
    n = n + 1
    local mine = n
    if certificates and not s:starttls(certificates) then return end
    serve(s, mine)
  end))
  local _, port = listener:getlocal()
  sched:add(function()
    f((certificates and "https://localhost:" or "http://127.0.0.1:") .. port, port)
    done = true
  end)
  local limit = psocket.now() + 20
  while not done and sched:step(0.2) do
    if psocket.now() > limit then error("not finished in time") end
  end
  listener:close()
  check(done, "the client did not come to its end")
  return n
end

-- A server that answers every request with the same bytes, and keeps what it was asked.
local asked
local function canned(answer, f)
  asked = {}
  return with(function(s, n)
    local head = s:read_until("\r\n\r\n")
    if not head then return end
    asked[#asked + 1] = head
    s:send(type(answer) == "table" and (answer[n] or answer[#answer]) or answer)
  end, f)
end

local function answers(name, answer, f, request)
  t.test(name, function()
    canned(answer, function(base)
      request = request or {}
      request.url, request.timeout = base .. (request.path or "/"), request.timeout or 5
      f(http.request(request))
    end)
  end)
end

answers("a length", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-A: 1\r\nx-a: 2\r\n\r\nhello", function(r)
  equal(r.status, 200)
  equal(r.reason, "OK")
  equal(r.body, "hello")
  equal(r.headers["x-a"], "1, 2")
  check(asked[1]:find("^GET / HTTP/1.1\r\n") and asked[1]:find("\r\nHost: 127.0.0.1:%d+\r\n"), asked[1])
end)
answers("chunks, extensions and a trailer", "HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n3\r\nabc\r\n0A;x=\"y\"\r\n0123456789\r\n0\r\nT: 1\r\nU: 2\r\n\r\n",
  function(r) equal(r.body, "abc0123456789") end)
answers("until the end", "HTTP/1.0 200 OK\r\n\r\nall of it", function(r) equal(r.body, "all of it") end)
answers("no reason, no fields", "HTTP/1.1 204\r\n\r\n", function(r) equal(r.status, 204) equal(r.body, "") end)
answers("304 has no body whatever it says", "HTTP/1.1 304 Not Modified\r\nContent-Length: 99\r\n\r\n", function(r) equal(r.body, "") end)
answers("HEAD has none either", "HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n", function(r)
  equal(r.body, "")
  equal(r.headers["content-length"], "99")
end, { method = "HEAD" })
answers("interim answers", "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n!",
  function(r) equal(r.status, 200) equal(r.body, "!") end)
answers("the same length twice", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok", function(r) equal(r.body, "ok") end)
answers("cookies keep apart", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nSet-Cookie: a=1, b\r\nSet-Cookie: c=2\r\n\r\n",
  function(r) equal(r.headers["set-cookie"], "a=1, b\nc=2") end)
for name, case in pairs {
  ["two lengths"] = { "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nabc", "HTTP" },
  ["a negative length"] = { "HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\nabc", "HTTP" },
  ["a length of words"] = { "HTTP/1.1 200 OK\r\nContent-Length: 0x10\r\n\r\nabc", "HTTP" },
  ["an endless length"] = { "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\nabc", "HTTP" },
  ["an unknown coding"] = { "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", "HTTP" },
  ["a bad chunk"] = { "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nhello\r\n", "HTTP" },
  ["a chunk without end"] = { "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhello\r\n0\r\n\r\n", "HTTP" },
  ["a huge chunk"] = { "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\nhello\r\n", "HTTP" },
  ["a chunk's size cut short"] = { "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n5", "TRUNCATED" },
  ["a chunk's end cut short"] = { "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r", "TRUNCATED" },
  ["chunks without their last line end"] = { "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n", "TRUNCATED" },
  ["a status of four digits"] = { "HTTP/1.1 2000 X\r\nContent-Length: 0\r\n\r\n", "HTTP" },
  ["chunks cut short"] = { "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel", "TRUNCATED" },
  ["a body cut short"] = { "HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nnot all of it", "TRUNCATED" },
  ["a long body cut short"] = { "HTTP/1.1 200 OK\r\nContent-Length: 50000\r\n\r\nnot all of it", "TRUNCATED" },
  ["no HTTP"] = { "220 mail.example.org ESMTP\r\n\r\n", "HTTP" },
  ["HTTP/2"] = { "HTTP/2.0 200 OK\r\n\r\n", "HTTP" },
  ["a folded field"] = { "HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n", "HTTP" },
  ["a blank in a name"] = { "HTTP/1.1 200 OK\r\nA : b\r\n\r\n", "HTTP" },
  ["a NUL in a value"] = { "HTTP/1.1 200 OK\r\nA: b\0c\r\n\r\n", "HTTP" },
  ["half a head"] = { "HTTP/1.1 200 OK\r\nA: b", "CLOSED" },
  ["nothing"] = { "", "CLOSED" },
  ["a head without end"] = { "HTTP/1.1 200 OK\r\n" .. ("A: b\r\n"):rep(20000), "LIMIT" },
} do
  answers("refused: " .. name, case[1], function(r, message, code) fails(case[2], r, message, code) end)
end
answers("a head that is too long says so", "HTTP/1.1 200 OK\r\n" .. ("A: b\r\n"):rep(20000), function(r, m) check(not r and m:find("more than 65536 bytes"), m) end)
t.test("what would be two requests, and options that are none, raise", function()
  t.raises("bad method", http.request, { url = "http://127.0.0.1:1/", method = "GET /evil HTTP/1.1\r\nX: y\r\n\r\nGET" })
  for _, method in ipairs { "", "GET ", "G\tT", "GET\n" } do t.raises("bad method", http.request, { url = "http://127.0.0.1:1/", method = method }) end
  t.raises("tiemout", http.request, { url = "http://127.0.0.1:1/", tiemout = 5 })
end)
answers("a cap on the body", "HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\nhello world", function(r, m, n) fails("LIMIT", r, m, n) end, { max = 10 })
answers("a cap on chunks", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nb\r\nhello world\r\n0\r\n\r\n", function(r, m, n) fails("LIMIT", r, m, n) end, { max = 10 })
answers("a cap on what ends with the connection", "HTTP/1.1 200 OK\r\n\r\nhello world", function(r, m, n) fails("LIMIT", r, m, n) end, { max = 10 })
do
  local got, seen = {}, {}
  answers("a sink and progress", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", function(r)
    equal(table.concat(got, "|"), "abc|de")
    equal(table.concat(seen, "|"), "3 nil|5 nil")
    equal(r.body, nil)
  end, { sink = function(data) got[#got + 1] = data end, progress = function(n, total) seen[#seen + 1] = n .. " " .. tostring(total) end })
  answers("a sink stops it", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", function(r, m, n) fails("CLOSED_HERE", r, m, n) end,
    { sink = function() return false end })
end

t.test("one limit for all of it", function()
  with(function(s)
    s:read_until("\r\n\r\n")
    s:send("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
    for _ = 1, 40 do
      if not s:send(".") then return end
      t.nap(0.1)
    end
  end, function(base)
    local before = psocket.now()
    fails("TIMEOUT", http.request { url = base, timeout = 0.5 })
    check(psocket.now() - before < 2)
  end)
end)

t.test("redirects", function()
  local function target(location) return "HTTP/1.1 302 Found\r\nLocation: " .. location .. "\r\nContent-Length: 3\r\n\r\nold" end
  for _, case in ipairs { { "/x", "/x" }, { "x", "/a/b/x" }, { "../x?y", "/a/x?y" }, { "./x", "/a/b/x" }, { "?q", "/a/b/c?q" }, { ".", "/a/b/" },
                          { "../../../x", "/x" }, { "..", "/a/" }, { "/a/./b/../c", "/a/c" }, { "//HOST/x", "/x" }, { "http://HOST/", "/" }, { "x/..", "/a/b/" } } do
    local port
    asked = {}
    with(function(s, n)
      local head = s:read_until("\r\n\r\n")
      asked[n] = head
      s:send(n == 1 and target((case[1]:gsub("HOST", "127.0.0.1:" .. port))) or "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nnew")
    end, function(base, p)
      port = p
      local r = assert(http.request { url = base .. "/a/b/c?d", keep = false })
      equal(r.body, "new")
      equal(r.url, base .. case[2])
      equal(asked[2]:match("^GET (%S+)"), case[2], case[1])
    end)
  end
  canned(target "/again", function(base)
    local r = http.request { url = base, redirects = 3, keep = false }
    equal(r.status, 302)
    equal(r.body, "old")
    equal(#asked, 4)
    equal(http.request { url = base, redirects = 0, keep = false }.status, 302)
  end)
  for _, case in ipairs { { 301, "POST", "GET" }, { 302, "POST", "GET" }, { 303, "PUT", "GET" }, { 307, "POST", "POST" }, { 308, "PUT", "PUT" }, { 302, "PUT", "PUT" }, { 303, "HEAD", "HEAD" } } do
    canned({ "HTTP/1.1 " .. case[1] .. " x\r\nLocation: /n\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n" }, function(base)
      http.request { url = base, method = case[2], body = case[2] ~= "HEAD" and "xyz" or nil, keep = false }
      equal(asked[2]:match("^%u+"), case[3], case[1] .. " " .. case[2])
      equal(asked[2]:find("Content-Length: 3", 1, true) ~= nil, case[3] ~= "GET" and case[3] ~= "HEAD")
    end)
  end
end)

t.test("a redirect elsewhere takes no secrets along", function()
  local first, second = nil, nil
  local sched, done = psocket.scheduler(), nil
  local b = assert(psocket.bind(sched, "127.0.0.1:0", function(s)
    second = s:read_until("\r\n\r\n")
    s:send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
  end))
  local a = assert(psocket.bind(sched, "127.0.0.1:0", function(s)
    first = s:read_until("\r\n\r\n")
    s:send("HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:" .. select(2, b:getlocal()) .. "/\r\nContent-Length: 0\r\n\r\n")
  end))
  sched:add(function()
    done = http.request { url = "http://127.0.0.1:" .. select(2, a:getlocal()) .. "/", keep = false,
      headers = { authorization = "secret", Cookie = "secret", ["X-Other"] = "kept" } }
    a:close()
    b:close()
  end)
  sched:run()
  equal(done and done.status, 200)
  check(first:find("secret", 1, true) and not second:find("secret", 1, true) and second:find("X-Other: kept", 1, true), second)
end)

t.test("connections are kept, and a stale one does no harm", function()
  local requests = 0
  local n = with(function(s)
    for _ = 1, 3 do
      if not s:read_until("\r\n\r\n") then return end
      requests = requests + 1
      s:send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    end
  end, function(base)
    for _ = 1, 7 do equal(assert(http.request(base)).body, "ok") end
    equal(assert(http.request { url = base, keep = false }).body, "ok")
  end)
  equal(requests, 8)
  equal(n, 4)
  -- closed while the request is on its way: tried again, but no POST
  n = with(function(s, i)
    s:read_until("\r\n\r\n")
    s:send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    if i == 1 or i == 3 then s:read_until("\r\n\r\n") end -- and no answer
  end, function(base)
    equal(assert(http.request(base)).body, "ok")
    equal(assert(http.request(base)).body, "ok")
    equal(assert(http.request { url = base, keep = false }).body, "ok") -- takes the third connection
  end)
  equal(n, 3)
  with(function(s, i)
    s:read_until("\r\n\r\n")
    s:send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    if i == 1 then s:read_until("x") end
  end, function(base)
    equal(assert(http.request(base)).body, "ok")
    local r, message, name = http.request { url = base, body = "x" }
    fails("CLOSED", r, message, name)
  end)
end)

t.test("nothing of the user's breaks out of its field", function()
  canned("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", function(base)
    if t.pcall_yields then
      t.raises("bad header", http.request, { url = base, headers = { A = "b\r\nC: d" } })
      t.raises("bad header", http.request, { url = base, headers = { ["A: b\r\nC"] = "d" } })
    end
    fails("INVALID", http.request(base .. "/a b"))
    fails("INVALID", http.request(base .. "/a\r\nb: c"))
  end)
  for _, url in ipairs { "", "x", "ftp://a/", "http://", "http://a:b/", "http://a@b/", "http://[::1/", "http://a:99999999/", "http:///x" } do
    fails("INVALID", http.request(url))
  end
end)

local function echo(request)
  if request.path == "/stream" then
    local n = 0
    return 200, { ["Content-Type"] = "text/x" }, function()
      n = n + 1
      if n <= 3 then return ("piece %d;"):format(n) end
    end
  end
  if request.path == "/nothing" then return 204 end
  return 200, { ["X-Path"] = request.path, ["X-Query"] = request.query },
    ("%s %s %s"):format(request.method, request.headers["x-b"] or "-", request.body)
end

t.test("both sides of it", function()
  local n = with(function(s) http.serve(s, echo) end, function(base)
    local r = assert(http.request { url = base .. "/p?q=1#f", headers = { ["X-B"] = "7" } })
    equal(r.body, "GET 7 ")
    equal(r.headers["x-path"], "/p")
    equal(r.headers["x-query"], "q=1")
    equal(r.headers["content-type"], "text/plain; charset=utf-8")
    equal(assert(http.request { url = base, body = ("x"):rep(500000) }).body, "POST - " .. ("x"):rep(500000))
    local n = 0
    r = assert(http.request { url = base, method = "PUT", body = function()
      n = n + 1
      return n <= 100 and (n == 50 and "" or ("y"):rep(n)) or nil
    end })
    equal(r.body, "PUT - " .. ("y"):rep(5000))
    equal(assert(http.request(base .. "/stream")).body, "piece 1;piece 2;piece 3;")
    equal(assert(http.request(base .. "/nothing")).body, "")
    equal(assert(http.request { url = base, method = "HEAD" }).headers["content-length"], "7")
    equal(assert(http.request { url = base, method = "HEAD" }).body, "")
    equal(assert(http.request { url = base .. "/stream", method = "HEAD" }).body, "")
  end)
  equal(n, 1) -- all of it on one connection
end)

t.test("what a server refuses", function()
  for request, status in pairs {
    ["GET / HTTP/1.1\r\n\r\n"] = 400, -- no host
    ["GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"] = 400,
    ["GET / HTTP/1.1\r\nHost: a\r\nA : b\r\n\r\n"] = 400,
    ["GET / HTTP/1.1\r\nHost: a\r\n b\r\n\r\n"] = 400,
    ["GET /\r\n\r\n"] = 400, ["nonsense\r\n\r\n"] = 400,
    ["GET / HTTP/2.0\r\nHost: a\r\n\r\n"] = 400,
    ["POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"] = 400,
    ["POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"] = 501,
    ["POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n"] = 501,
    ["POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5, 6\r\n\r\nhello"] = 400,
    ["POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n\r\nhello"] = 400,
    ["POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 101\r\n\r\nhello"] = 413,
    ["POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n70\r\n" .. ("x"):rep(112) .. "\r\n0\r\n\r\n"] = 413,
    ["POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"] = 400,
    ["GET / HTTP/1.1\r\nHost: a\r\nA: " .. ("b"):rep(70000) .. "\r\n\r\n"] = 431,
    ["GET / HTTP/1.0\r\n\r\n"] = 200, -- and these not
    ["\r\nGET / HTTP/1.0\r\n\r\n"] = 200,
    ["GET http://a/x HTTP/1.1\r\nHost: a\r\n\r\n"] = 200,
    ["OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n"] = 200,
    ["POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"] = 200,
  } do
    with(function(s) http.serve(s, echo, { max = 100, timeout = 5 }) end, function(_, port)
      local s = assert(psocket.connect("127.0.0.1", port, { timeout = 5 }))
      s:send(request)
      s:shutdown("send")
      local head = s:read_until("\r\n\r\n") or "nothing"
      equal(tonumber(head:match("^HTTP/1.1 (%d+)")), status, request:sub(1, 100))
      if status ~= 200 then check(head:find("Connection: close", 1, true), head) end
    end)
  end
end)

t.test("half a request in time is answered with 408, silence with nothing", function()
  with(function(s) http.serve(s, echo, { timeout = 0.2 }) end, function(_, port)
    local s = assert(psocket.connect("127.0.0.1", port, { timeout = 5 }))
    s:send("GET / HT")
    check((s:read_until("\r\n\r\n") or ""):find("^HTTP/1.1 408 "))
    s = assert(psocket.connect("127.0.0.1", port, { timeout = 5 }))
    fails("CLOSED", s:recv())
  end)
end)

if no_tls then t.skip("https", "no TLS in this build") else
  local certificates = { { chain = t.pem "rsa.pem", private_key = t.pem "rsa.key" } }
  local trust = { ca_file = certs .. "ca.pem" }
  t.test("https", function()
    local n = with(function(s) http.serve(s, echo) end, function(base)
      local r = assert(http.request { url = base .. "/", tls = trust })
      equal(r.body, "GET - ")
      check(r.tls.version:find("TLSv1"))
      equal(assert(http.request { url = base .. "/", tls = trust, body = ("z"):rep(300000) }).body, "POST - " .. ("z"):rep(300000))
      -- a connection that was verified one way is not used by who verifies another way
      local other = http.request { url = base .. "/", tls = { ca_file = certs .. "other_ca.pem" } }
      check(not other)
      fails("CERT_UNTRUSTED", http.request { url = base .. "/", tls = { ca_file = certs .. "other_ca.pem" } })
      check(not http.request(base .. "/"))
    end, certificates)
    equal(n, 4)
    with(function(s)
      s:read_until("\r\n\r\n")
      s:send("HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:9/\r\nContent-Length: 0\r\n\r\n")
    end, function(base) fails("HTTP", http.request { url = base, tls = trust }) end, certificates)
  end)

  -- The servers named in the environment, from a task and from outside of any.
  local function fetch()
    for _, base in ipairs { os.getenv("HTTP_URL") or false, os.getenv("HTTPS_URL") or false } do
      if base then
        local request = { url = base .. "/hello.txt", tls = trust }
        for _ = 1, 2 do equal(assert(http.request(request)).body, "hello from a file\n") end
        local got, last, total = 0, nil, nil
        assert(http.request { url = base .. "/big.bin", tls = trust, sink = function(data) got = got + #data end,
          progress = function(n, all) last, total = n, all end })
        equal(got, 5000000)
        equal(last, 5000000)
        equal(total, 5000000)
        equal(#assert(http.request { url = base .. "/big.bin", tls = trust }).body, 5000000)
        equal(assert(http.request { url = base .. "/none", tls = trust }).status, 404)
        equal(assert(http.request { url = base .. "/hello.txt", method = "HEAD", tls = trust }).headers["content-length"], "18")
      end
    end
  end
  t.test("servers of others, blocking", fetch)
  t.test("servers of others, in tasks", function() t.scheduled(fetch, fetch) end)
  t.test("servers of others, with a home-made scheduler", function() t.homemade(fetch) end)
end
t.finish()
