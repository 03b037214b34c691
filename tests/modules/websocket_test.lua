-- websocket_test.lua: examples/websocket.lua. A table of cases after the Autobahn test suite's (the numbers are its), sent
-- to our server and to our client as raw frames, whole and byte by byte; then both of ours against each other, and
-- against the server named in the environment (WS_URL, an echo), in tasks and outside of them.
local t = require "check"
local websocket = require "websocket"
local http = require "http"
local psocket = t.psocket
local check, equal, fails = t.check, t.equal, t.fails
local certs = (os.getenv("PSOCKET_CERTS") or "build/certs") .. "/"

local function xor(a, b)
  local r, bit = 0, 1
  while a > 0 or b > 0 do
    if a % 2 ~= b % 2 then r = r + bit end
    a, b, bit = math.floor(a / 2), math.floor(b / 2), bit * 2
  end
  return r
end

local KEY = { 0x37, 0xfa, 0x21, 0x3d }
-- A frame; options: fin, rsv, masked (overrides `client`), length (16 or 64: in that many bits).
local function frame(client, opcode, payload, options)
  options = options or {}
  local masked = client
  if options.masked ~= nil then masked = options.masked end
  local n, wide = #payload, options.length or (#payload > 65535 and 64 or #payload > 125 and 16 or 0)
  local first = (options.fin == false and 0 or 128) + (options.rsv or 0) * 16 + opcode
  local out = string.char(first, (masked and 128 or 0) + (wide == 64 and 127 or wide == 16 and 126 or n))
  if wide > 0 then
    local bytes = {}
    for i = wide / 8, 1, -1 do bytes[i], n = string.char(n % 256), math.floor(n / 256) end
    out = out .. table.concat(bytes)
  end
  if not masked then return out .. payload end
  local i = 0
  return out .. string.char(KEY[1], KEY[2], KEY[3], KEY[4]) .. payload:gsub(".", function(c)
    i = i % 4 + 1
    return string.char(xor(c:byte(), KEY[i]))
  end)
end

-- Reads frames until the end: a list of "opcode payload" (a close frame: "8 code").
local function read_frames(s, from_client)
  local list = {}
  while true do
    local head = s:read(2)
    if not head then return list end
    local first, n = head:byte(1, 2)
    equal(n >= 128, from_client, "masked")
    n = n % 128
    if n == 126 then local a, b = s:read(2):byte(1, 2) n = a * 256 + b
    elseif n == 127 then
      local bytes = s:read(8)
      n = 0
      for i = 1, 8 do n = n * 256 + bytes:byte(i) end
    end
    local key = from_client and { s:read(4):byte(1, 4) }
    local payload = n > 0 and s:read(n) or ""
    if not payload then return list end
    if key then
      local i = 0
      payload = payload:gsub(".", function(c) i = i % 4 + 1 return string.char(xor(c:byte(), key[i])) end)
    end
    if first % 16 == 8 then payload = #payload >= 2 and payload:byte(1) * 256 + payload:byte(2) or "none" end
    list[#list + 1] = first % 16 .. " " .. payload
  end
end

local function close(code, reason) return string.char(math.floor(code / 256), code % 256) .. (reason or "") end
local bye = { 8, close(1000) }
-- name, frames (lists of arguments of `frame`), answers
local cases = {
  { "1.1.1 empty text", { { 1, "" }, bye }, { "1 ", "8 1000" } },
  { "1.1.2 text", { { 1, ("*"):rep(125) }, bye }, { "1 " .. ("*"):rep(125), "8 1000" } },
  { "1.1.4 text of 127", { { 1, ("*"):rep(127) }, bye }, { "1 " .. ("*"):rep(127), "8 1000" } },
  { "1.1.6 text of 65535", { { 1, ("*"):rep(65535) }, bye }, { "1 " .. ("*"):rep(65535), "8 1000" }, big = true },
  { "1.1.7 text of 65536", { { 1, ("*"):rep(65536) }, bye }, { "1 " .. ("*"):rep(65536), "8 1000" }, big = true },
  { "1.2.2 binary", { { 2, ("\254"):rep(125) }, bye }, { "2 " .. ("\254"):rep(125), "8 1000" } },
  { "2.1 empty ping", { { 9, "" }, bye }, { "10 ", "8 1000" } },
  { "2.4 ping of 125 binary", { { 9, ("\254"):rep(125) }, bye }, { "10 " .. ("\254"):rep(125), "8 1000" } },
  { "2.5 ping of 126", { { 9, ("\254"):rep(126) } }, { "8 1002" } },
  { "2.7 pong unasked", { { 10, "" }, bye }, { "8 1000" } },
  { "2.9 pongs, then a ping", { { 10, "x" }, { 9, "p" }, bye }, { "10 p", "8 1000" } },
  { "2.10 ten pings", { { 9, "0" }, { 9, "1" }, { 9, "2" }, { 9, "3" }, { 9, "4" }, bye }, { "10 0", "10 1", "10 2", "10 3", "10 4", "8 1000" } },
  { "3.1 RSV 1", { { 1, "hello", { rsv = 1 } } }, { "8 1002" } },
  { "3.2 RSV 2 after a text", { { 1, "hello" }, { 1, "hello", { rsv = 2 } } }, { "1 hello", "8 1002" } },
  { "3.4 RSV 4 in a ping", { { 9, "", { rsv = 4 } } }, { "8 1002" } },
  { "3.7 RSV 7 in a close", { { 8, "", { rsv = 7 } } }, { "8 1002" } },
  { "4.1.1 opcode 3", { { 3, "" } }, { "8 1002" } },
  { "4.1.3 opcode 5 after a text", { { 1, "hello" }, { 5, "x" } }, { "1 hello", "8 1002" } },
  { "4.1.5 opcode 7", { { 7, "" } }, { "8 1002" } },
  { "4.2.1 opcode 11", { { 11, "" } }, { "8 1002" } },
  { "4.2.5 opcode 15", { { 15, "x" } }, { "8 1002" } },
  { "5.1 fragmented ping", { { 9, "a", { fin = false } }, { 0, "b" } }, { "8 1002" } },
  { "5.2 fragmented pong", { { 10, "a", { fin = false } }, { 0, "b" } }, { "8 1002" } },
  { "5.3 two fragments", { { 1, "frag", { fin = false } }, { 0, "ment" }, bye }, { "1 fragment", "8 1000" } },
  { "5.6 a ping between fragments", { { 1, "frag", { fin = false } }, { 9, "p" }, { 0, "ment" }, bye }, { "10 p", "1 fragment", "8 1000" } },
  { "5.9 a continuation of nothing", { { 0, "x" } }, { "8 1002" } },
  { "5.10 an unfinished one", { { 0, "x", { fin = false } } }, { "8 1002" } },
  { "5.15 a text within a text", { { 1, "a", { fin = false } }, { 1, "b" } }, { "8 1002" } },
  { "5.18 two texts, the second unasked", { { 1, "a", { fin = false } }, { 1, "b", { fin = false } } }, { "8 1002" } },
  { "5.19 five fragments, pings between", { { 1, "1", { fin = false } }, { 0, "2", { fin = false } }, { 9, "a" }, { 0, "3", { fin = false } },
    { 9, "b" }, { 0, "4", { fin = false } }, { 0, "5" }, bye }, { "10 a", "10 b", "1 12345", "8 1000" } },
  { "6.1.2 empty fragments", { { 1, "", { fin = false } }, { 0, "", { fin = false } }, { 0, "" }, bye }, { "1 ", "8 1000" } },
  { "6.2.3 UTF-8 cut by fragments", { { 1, "\206", { fin = false } }, { 0, "\186\225\189", { fin = false } }, { 0, "\185" }, bye }, { "1 \206\186\225\189\185", "8 1000" } },
  { "6.3.1 no UTF-8", { { 1, "\206\186\225\189\185\207\131\206\188\206\181\237\160\128edited" } }, { "8 1007" } },
  { "6.3.2 no UTF-8, in fragments", { { 1, "\206\186", { fin = false } }, { 0, "\237\160\128edited" } }, { "8 1007" } },
  { "7.1.1 text, then close", { { 1, "x" }, bye }, { "1 x", "8 1000" } },
  { "7.1.3 a ping after the close", { bye, { 9, "x" } }, { "8 1000" } },
  { "7.1.4 a text after the close", { bye, { 1, "x" } }, { "8 1000" } },
  { "7.3.1 an empty close", { { 8, "" } }, { "8 none" } },
  { "7.3.2 a close of one byte", { { 8, "a" } }, { "8 1002" } },
  { "7.3.4 a close with a reason", { { 8, close(1000, "bye") } }, { "8 1000" } },
  { "7.3.5 a reason of 123 bytes", { { 8, close(1000, ("*"):rep(123)) } }, { "8 1000" } },
  { "7.3.6 a reason of 124", { { 8, close(1000, ("*"):rep(124)) } }, { "8 1002" } },
  { "7.5.1 a reason that is no UTF-8", { { 8, close(1000, "\237\160\128") } }, { "8 1007" } },
  { "a bit of length too many: 16", { { 1, "abc", { length = 16 } } }, { "8 1002" } },
  { "a bit of length too many: 64", { { 1, "abc", { length = 64 } } }, { "8 1002" } },
  { "masked the wrong way", { { 1, "abc", { masked = "flip" } } }, { "8 1002" } },
  { "9: too large a message", { { 1, ("x"):rep(70001) } }, { "8 1009" }, big = true },
  { "9: too large a message in fragments", { { 1, ("x"):rep(40000), { fin = false } }, { 0, ("x"):rep(40000) } }, { "8 1009" }, big = true },
}
for _, code in ipairs { 1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1014, 3000, 3999, 4000, 4999 } do
  cases[#cases + 1] = { "7.7 close code " .. code, { { 8, close(code) } }, { "8 " .. code } }
end
for _, code in ipairs { 0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535 } do
  cases[#cases + 1] = { "7.9 close code " .. code, { { 8, close(code) } }, { "8 1002" } }
end
for i, text in ipairs { "\0", "\127", "\194\128", "\223\191", "\224\160\128", "\236\191\191", "\237\159\191", "\238\128\128", "\239\191\191",
                        "\240\144\128\128", "\244\143\191\191", "Hello-\194\181@\195\159\195\182\195\164\195\188\195\160\195\161-UTF-8!!" } do
  cases[#cases + 1] = { "6.x valid UTF-8 " .. i, { { 1, text }, bye }, { "1 " .. text, "8 1000" } }
end
for i, text in ipairs { "\128", "\191", "\192\128", "\193\191", "\194", "\194a", "\224\128\128", "\224\159\191", "\224\160", "\237\160\128", "\237\191\191",
                        "\240\128\128\128", "\240\143\191\191", "\244\144\128\128", "\245\128\128\128", "\248\136\128\128\128", "\254", "\255", "a\195(b" } do
  cases[#cases + 1] = { "6.x invalid UTF-8 " .. i, { { 1, text } }, { "8 1007" } }
end

local function echo(ws)
  while true do
    local data, kind = ws:receive()
    if not data then return end
    if not ws:send(data, kind) then return end
  end
end

local function bytes_of(case, client)
  local all = {}
  for _, f in ipairs(case[2]) do
    local options = f[3]
    if options and options.masked == "flip" then options = { masked = not client } end
    all[#all + 1] = frame(client, f[1], f[2], options)
  end
  return table.concat(all)
end

local function send_in(s, bytes, step)
  for i = 1, #bytes, step do
    if not s:send(bytes:sub(i, i + step - 1)) then return end
  end
end

local function compare(case, got, how)
  equal(table.concat(got, "|"):sub(1, 300), table.concat(case[3], "|"):sub(1, 300), case[1] .. how)
  equal(#got, #case[3], case[1] .. how)
end

local handshake = "GET /x HTTP/1.1\r\nHost: x\r\nUpgrade: WebSocket\r\nConnection: keep-alive, Upgrade\r\n" ..
  "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"

t.test("the table of cases, to our server", function()
  local sched = psocket.scheduler()
  local l = assert(psocket.bind(sched, "127.0.0.1:0", function(s)
    local ws = websocket.accept(s, nil, { max = 70000 })
    if ws then echo(ws) end
  end))
  local _, port = l:getlocal()
  sched:add(function()
    for _, case in ipairs(cases) do
      for _, step in ipairs { 1000000, 1 } do
        if step > 1 or not case.big then
          local s = assert(psocket.connect("127.0.0.1", port, { timeout = 5 }))
          s:send(handshake)
          check(s:read_until("\r\n\r\n"):find("Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", 1, true)) -- RFC 6455 1.3
          send_in(s, bytes_of(case, true), step)
          compare(case, read_frames(s, false), ", " .. step .. " at a time")
          s:close()
        end
      end
    end
    l:close()
  end)
  sched:run()
end)

t.test("the table of cases, to our client", function()
  local sched = psocket.scheduler()
  local case, step, got
  local l = assert(psocket.bind(sched, "127.0.0.1:0", function(s)
    local key = s:read_until("\r\n\r\n"):match("Sec%-Websocket%-Key: (%S+)")
    -- the proof is made by the module's own server side, so let it answer
    s:unrecv(("GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: %s\r\nSec-WebSocket-Version: 13\r\n\r\n"):format(key))
    assert(websocket.accept(s))
    s:settimeout(5)
    send_in(s, bytes_of(case, false), step)
    got = read_frames(s, true)
  end))
  local _, port = l:getlocal()
  sched:add(function()
    for _, c in ipairs(cases) do
      for _, st in ipairs { 1000000, 1 } do
        if st > 1 or not c.big then
          case, step, got = c, st, nil
          local ws = assert(websocket.connect("ws://127.0.0.1:" .. port .. "/", { max = 70000, timeout = 5 }))
          echo(ws)
          while not got do sched:sleep(0.001) end
          compare(case, got, ", " .. step .. " at a time")
        end
      end
    end
    l:close()
  end)
  sched:run()
end)

-- A server of ours beside f(port), in tasks.
local function with(serve, f)
  local sched, done = psocket.scheduler(), false
  local l = assert(psocket.bind(sched, "127.0.0.1:0", serve))
  sched:add(function()
    f((select(2, l:getlocal())))
    done = true
    l:close()
  end)
  local limit = psocket.now() + 20
  while sched:step(0.2) do
    if psocket.now() > limit then error("not finished in time") end
  end
  check(done)
end

t.test("handshakes that are refused", function()
  with(function(s) websocket.accept(s, nil, { allow = function(r) return r.headers.origin ~= "http://evil" end }) end, function(port)
    for change, status in pairs { ["GET /x|POST /x"] = 400, ["Upgrade: WebSocket|Upgrade: h2c"] = 400, ["keep%-alive, Upgrade|keep-alive"] = 400,
        ["dGhlIHNhbXBsZSBub25jZQ==|short"] = 400, ["Version: 13|Version: 8"] = 426, ["Host: x\r\n|Host: x\r\nOrigin: http://evil\r\n"] = 403,
        ["Host: x\r\n|"] = 400, ["GET /x HTTP/1.1|GET /x"] = 400, ["x|x"] = 101 } do
      local from, to = change:match("^(.-)|(.*)$")
      local s = assert(psocket.connect("127.0.0.1", port, { timeout = 5 }))
      s:send((handshake:gsub(from, (to:gsub("%%", "%%%%")), 1)))
      equal(tonumber((s:read_until("\r\n\r\n") or ""):match("^HTTP/1.1 (%d+)")), status, change)
      s:close()
    end
  end)
  for name, answer in pairs {
    ["no proof"] = "HTTP/1.1 101 x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    ["a wrong proof"] = "HTTP/1.1 101 x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
    ["a page"] = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
  } do
    with(function(s) s:read_until("\r\n\r\n") s:send(answer) end, function(port)
      local ws, message, code = websocket.connect("ws://127.0.0.1:" .. port)
      check(not ws and (code == "WEBSOCKET" or code == "HTTP"), name .. ": " .. tostring(message))
    end)
  end
end)

t.test("protocols, fragments, limits, both ends of ours", function()
  with(function(s)
    local ws = websocket.accept(s, nil, { protocols = { "b", "a" } })
    if ws then echo(ws) end
  end, function(port)
    local url = "ws://127.0.0.1:" .. port
    equal(assert(websocket.connect(url, { protocols = { "a", "b" } })).protocol, "b")
    equal(assert(websocket.connect(url, { protocols = { "c" } })).protocol, nil)
    local ws = assert(websocket.connect(url))
    for _, n in ipairs { 0, 1, 125, 126, 127, 65535, 65536, 300000 } do
      local data = ("\195\164"):rep(math.floor(n / 2)) .. ("x"):rep(n % 2)
      check(ws:send(data))
      local got, kind = ws:receive(5)
      check(got == data and kind == "text", n)
    end
    ws:send("a", "binary", true)
    ws:ping("between")
    ws:send("b", "binary", true)
    ws:send("c")
    local data, kind = ws:receive(5)
    equal(data, "abc")
    equal(kind, "binary")
    fails("TIMEOUT", ws:receive(0.05))
    ws:send("after")
    equal(ws:receive(5), "after")
    ws:close(4000, "enough")
    local _, message, name = ws:receive()
    fails("CLOSED_HERE", nil, message, name)
    check(not ws:send("x"))
  end)
end)

t.test("what the rules forbid to send raises, and nothing of it is sent", function()
  with(function(s) echo(websocket.accept(s)) end, function(port)
    local ws = assert(websocket.connect("ws://127.0.0.1:" .. port))
    t.raises("UTF-8", ws.send, ws, "\255")
    t.raises("UTF-8", ws.send, ws, "\195", "text")
    t.raises("binary", ws.send, ws, "x", "nonsense")
    t.raises("125", ws.ping, ws, ("x"):rep(126))
    for _, code in ipairs { 0, 999, 1004, 1005, 1006, 1015, 2999, 5000, 70000 } do t.raises("close code", ws.close, ws, code) end
    t.raises("close code", ws.close, ws, 1000, "\255")
    t.raises("123", ws.close, ws, 1000, ("x"):rep(124))
    check(ws:send("\195\164") and ws:ping(("x"):rep(125)))
    equal(ws:receive(5), "\195\164")
    ws:close(4999, ("x"):rep(123))
  end)
end)

t.test("an end without a close frame is no clean one", function()
  for _, rest in ipairs { "", "\129", "\129\5hel" } do
    with(function(s)
      if websocket.accept(s) then s:send(rest) end
    end, function(port)
      local ws = assert(websocket.connect("ws://127.0.0.1:" .. port))
      fails("TRUNCATED", ws:receive(5))
      ws.s:close()
    end)
  end
end)

t.test("two who send at once, and one who receives", function()
  local got, total = {}, 0
  with(function(s)
    local ws = websocket.accept(s)
    for _ = 1, 40 do
      local data = ws:receive()
      if not data then break end
      local who, n = data:match("^(%a)(%d+)")
      equal(tonumber(n), (got[who] or 0) + 1)
      got[who] = tonumber(n)
      total = total + #data
      t.nap(0.001)
    end
    ws:send("all")
  end, function(port)
    local ws = assert(websocket.connect("ws://127.0.0.1:" .. port))
    local sched = psocket.scheduler()
    for _, who in ipairs { "a", "b" } do
      sched:add(function()
        for i = 1, 20 do check(ws:send(who .. i .. ("x"):rep(100000))) sched:sleep(0.001) end
      end)
    end
    while sched:step(0) do t.nap(0.001) end
    equal(ws:receive(10), "all")
    ws:close()
  end)
  equal(got.a, 20)
  equal(got.b, 20)
  check(total > 4000000)
end)

t.test("in a handler of http.lua", function()
  with(function(s)
    http.serve(s, function(request)
      if request.path ~= "/ws" then return "a page" end
      local ws = websocket.accept(s, request)
      if ws then echo(ws) end
    end)
  end, function(port)
    equal(assert(http.request { url = "http://127.0.0.1:" .. port .. "/", keep = false }).body, "a page")
    local ws = assert(websocket.connect("ws://127.0.0.1:" .. port .. "/ws"))
    ws:send("hello")
    equal(ws:receive(5), "hello")
    ws:close()
  end)
end)

if select(3, psocket.tls {}) ~= "UNSUPPORTED" then
  local certificates = { { chain = t.pem "ec.pem", private_key = t.pem "ec.key" } }
  t.test("over TLS", function()
    with(function(s)
      local ws = s:starttls(certificates) and websocket.accept(s)
      if ws then echo(ws) end
    end, function(port)
      local url = "wss://localhost:" .. port
      local ws = assert(websocket.connect(url, { tls = { ca_file = certs .. "ca.pem" } }))
      ws:send(("x"):rep(100000))
      equal(#ws:receive(5), 100000)
      ws:close()
      check(not websocket.connect(url))
    end)
  end)
end

local url = os.getenv("WS_URL")
if url then
  local function talk()
    local ws = assert(websocket.connect(url, { tls = { ca_file = certs .. "ca.pem" }, timeout = 10 }))
    for _, n in ipairs { 0, 1, 125, 126, 65535, 65536, 300000 } do
      check(ws:send(("x"):rep(n)))
      local data, kind = ws:receive(10)
      check(data == ("x"):rep(n) and kind == "text", n)
      check(ws:send(("\255"):rep(n), "binary"))
      data, kind = ws:receive(10)
      check(data == ("\255"):rep(n) and kind == "binary", n)
    end
    ws:close(1000, "bye")
  end
  t.test("another's server, blocking", talk)
  t.test("another's server, in tasks", function() t.scheduled(talk, talk) end)
  t.test("another's server, with a home-made scheduler", function() t.homemade(talk) end)
end
t.finish()
