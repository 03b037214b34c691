-- websocket.lua: WebSockets (RFC 6455), both sides, on psocket and http.lua. A module to copy. Yields in coroutines.
--
--     local websocket = require "websocket"
--     local ws, message, name = websocket.connect("wss://example.org/chat", { protocols = { "chat" } })
--     ws:send("hello")                       -- text, which must be UTF-8
--     ws:send(bytes, "binary")
--     local data, kind = ws:receive()        -- "text" or "binary"; pings are answered meanwhile
--     ws:close(1000, "bye")
--
-- A server: local ws = websocket.accept(s) in the callback of bind, or websocket.accept(s, request) in http.lua's handler.
--
-- Options: timeout (seconds: of the handshake, and of each send; 30), max (most bytes of a message; 16 MB), protocols
-- (the server takes its first that the client offers: ws.protocol); clients: headers, tls (as for starttls); servers:
-- allow = function(request), false refuses: look at request.headers.origin if cookies say who the client is.
-- receive(seconds) waits no longer than that, and can be called again. When the conversation is over it answers nil,
-- message, NAME and the close code: NAME is "CLOSED" after a close frame, "TRUNCATED" if it ended without one, "WEBSOCKET"
-- when the rules were broken, else psocket's. What the rules forbid to send raises. send may be called by one task while another receives or sends: what it sends waits for its turn.
-- send(piece, kind, true) sends a fragment, with more to follow.

local psocket = require "psocket"
local http = require((((...) or "websocket"):gsub("websocket$", "http"))) -- beside this file

local websocket = { timeout = 30, max = 16 * 1024 * 1024 }
local Socket = {}
Socket.__index = Socket
local TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
local floor, char, unpack = math.floor, string.char, table.unpack or unpack

--- Arithmetic in place of bit operations, which differ between the versions of Lua

local xor = setmetatable({}, { __index = function(rows, a) -- xor[a][b], of bytes, made when needed
  rows[a] = {}
  for b = 0, 255 do rows[a][b] = a == 0 and b or rows[floor(a / 2)][floor(b / 2)] * 2 + (a + b) % 2 end
  return rows[a]
end })

local function xor32(a, b)
  local result = 0
  for byte = 0, 3 do
    local x, y = a % 256, b % 256
    result = result + xor[x][y] * 256 ^ byte
    a, b = (a - x) / 256, (b - y) / 256
  end
  return result
end

local function and32(a, b) return (a + b - xor32(a, b)) / 2 end
local function rotate(a, n) return a % 2 ^ (32 - n) * 2 ^ n + floor(a / 2 ^ (32 - n)) end
local function big_endian(a) return char(floor(a / 2 ^ 24), floor(a / 65536) % 256, floor(a / 256) % 256, a % 256) end

local function sha1(text)
  local h = { 0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476, 0xC3D2E1F0 }
  text = text .. "\128" .. ("\0"):rep((55 - #text) % 64 + 4) .. big_endian(#text * 8)
  for block = 1, #text, 64 do
    local w = {}
    for i = 1, 16 do
      local p, q, r, s = text:byte(block + i * 4 - 4, block + i * 4 - 1)
      w[i] = ((p * 256 + q) * 256 + r) * 256 + s
    end
    for i = 17, 80 do w[i] = rotate(xor32(xor32(w[i - 3], w[i - 8]), xor32(w[i - 14], w[i - 16])), 1) end
    local a, b, c, d, e = unpack(h)
    for i = 1, 80 do
      local f, k
      if i <= 20 then f, k = xor32(d, and32(b, xor32(c, d))), 0x5A827999
      elseif i <= 40 then f, k = xor32(b, xor32(c, d)), 0x6ED9EBA1
      elseif i <= 60 then f, k = xor32(and32(b, c), and32(d, xor32(b, c))), 0x8F1BBCDC
      else f, k = xor32(b, xor32(c, d)), 0xCA62C1D6 end
      a, b, c, d, e = (rotate(a, 5) + f + e + k + w[i]) % 2 ^ 32, a, rotate(b, 30), c, d
    end
    for i, v in ipairs { a, b, c, d, e } do h[i] = (h[i] + v) % 2 ^ 32 end
  end
  return (big_endian(h[1]) .. big_endian(h[2]) .. big_endian(h[3]) .. big_endian(h[4]) .. big_endian(h[5]))
end

local function base64(bytes)
  local digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
  return (bytes:gsub("..?.?", function(three)
    local a, b, c = three:byte(1, 3)
    local n, text = a * 65536 + (b or 0) * 256 + (c or 0), ""
    for i = 1, 4 do
      local d = floor(n / 64 ^ (4 - i)) % 64 + 1
      text = text .. (i <= #three + 1 and digits:sub(d, d) or "=")
    end
    return text
  end))
end

local urandom = io.open("/dev/urandom", "rb")
local function random(n)
  return urandom and urandom:read(n) or (("."):rep(n):gsub(".", function() return char(math.random(0, 255)) end))
end

local function mask(data, key)
  local a, b, c, d = key:byte(1, 4)
  local parts = {}
  a, b, c, d = xor[a], xor[b], xor[c], xor[d]
  for from = 1, #data, 2048 do
    local t = { data:byte(from, from + 2047) }
    for i = 1, #t, 4 do t[i], t[i + 1], t[i + 2], t[i + 3] = a[t[i]], b[t[i + 1]], c[t[i + 2]], d[t[i + 3]] end
    parts[#parts + 1] = char(unpack(t))
  end
  return table.concat(parts)
end

local sequences = { "[\194-\223][\128-\191]", "\224[\160-\191][\128-\191]", "[\225-\236\238\239][\128-\191][\128-\191]",
  "\237[\128-\159][\128-\191]", "\240[\144-\191][\128-\191][\128-\191]", "[\241-\243][\128-\191][\128-\191][\128-\191]",
  "\244[\128-\143][\128-\191][\128-\191]" } -- RFC 3629 section 4
local function is_utf8(text)
  for _, sequence in ipairs(sequences) do text = text:gsub(sequence, ".") end
  return not text:find("[\128-\255]")
end

--- Frames

-- Hands frames to the socket in the order in which they come; a task that finds another one sending leaves it to that.
local function send_frame(ws, first, payload)
  if ws.closing then return nil, "closed on this side", "CLOSED_HERE" end
  if first >= 128 + CLOSE and #payload > 125 then error("websocket: a ping has at most 125 bytes, a reason 123", 3) end
  local n, masked = #payload, ws.client and 128 or 0
  local length = n < 126 and char(masked + n) or n < 65536 and char(masked + 126, floor(n / 256), n % 256)
                 or char(masked + 127, 0, 0, 0, floor(n / 2 ^ 32)) .. big_endian(n % 2 ^ 32)
  if ws.sending and ws.queued + n > ws.max then return nil, "too much waits to be sent already", "LIMIT" end
  local key = ws.client and random(4)
  ws.queue[#ws.queue + 1] = char(first) .. length .. (key and key .. mask(payload, key) or payload)
  ws.queued = ws.queued + n
  if ws.sending then return true end
  ws.sending = true
  local ok, message, name = true, nil, nil
  while ok and #ws.queue > 0 do
    local all = table.concat(ws.queue)
    ws.queue, ws.queued = {}, 0
    ws.s:settimeout(ws.timeout)
    ok, message, name = ws.s:send(all)
  end
  ws.sending = false
  if not ok then ws.s:close() end -- perhaps in the midst of a frame: nothing can follow
  return ok, message, name
end

-- Ends the conversation: says goodbye unless that was done, and closes when the other side has ended, too.
local function finish(ws, code, reason, name)
  send_frame(ws, 128 + CLOSE, code ~= 1005 and char(floor(code / 256), code % 256) .. reason or "")
  ws.closing = true
  ws.s:finish(2) -- not close: what is still on its way here would be answered with a reset, which could overtake the goodbye
  return nil, reason, name or "WEBSOCKET", code
end

-- The next frame: its first byte and its payload. What has been read of it stays in ws.frame when the time is over.
local function read_frame(ws, seconds)
  local deadline, message, name = seconds and psocket.now() + seconds, nil, nil
  local function read(n)
    local data
    ws.s:settimeout(deadline and math.max(deadline - psocket.now(), 0.001) or 0)
    data, message, name = ws.s:read(n)
    if name == "CLOSED" then message, name = "ended without a close frame", "TRUNCATED" end
    return data
  end
  local f = ws.frame or { parts = {} }
  ws.frame = f
  f.head = f.head or read(2)
  if not f.head then return nil, message, name end
  local first, n = f.head:byte(1, 2)
  local opcode, masked = first % 16, n >= 128
  n = n % 128
  if first % 128 >= 16 then return finish(ws, 1002, "a reserved bit is set") end
  if masked == ws.client then return finish(ws, 1002, "masked by the server, or not masked by the client") end
  if opcode > PONG or opcode > BINARY and opcode < CLOSE then return finish(ws, 1002, "unknown opcode") end
  if opcode >= CLOSE and (first < 128 or n > 125) then return finish(ws, 1002, "bad control frame") end
  local wide = n == 126 and 2 or n == 127 and 8 or 0 -- bytes of the length
  f.more = f.more or wide == 0 and not masked and "" or read(wide + (masked and 4 or 0))
  if not f.more then return nil, message, name end
  if wide > 0 then
    n = 0
    for i = 1, wide do n = n * 256 + f.more:byte(i) end
    if n < (wide == 2 and 126 or 65536) then return finish(ws, 1002, "a length in more bytes than it needs") end
  end
  if n + ws.got > ws.max then return finish(ws, 1009, ("a message of more than %d bytes"):format(ws.max)) end
  f.left = f.left or n
  while f.left > 0 do
    local data = read(math.min(f.left, 16384))
    if not data then return nil, message, name end
    f.left = f.left - #data
    f.parts[#f.parts + 1] = masked and mask(data, f.more:sub(-4)) or data
  end
  ws.frame = nil
  return first, table.concat(f.parts)
end

local function may_be_sent(code) -- RFC 6455 7.4
  return code >= 1000 and code <= 1014 and code ~= 1004 and code ~= 1005 and code ~= 1006 or code >= 3000 and code <= 4999
end

local function closed(ws, payload)
  local code, reason = 1005, payload:sub(3) -- 1005: the peer gave none
  if #payload >= 2 then code = payload:byte(1) * 256 + payload:byte(2) end
  if payload ~= "" and not may_be_sent(code) then return finish(ws, 1002, "bad close code") end
  if not is_utf8(reason) then return finish(ws, 1007, "the reason is no UTF-8") end
  return finish(ws, code, reason, "CLOSED")
end

function Socket:receive(seconds)
  while true do
    local first, payload, name, code = read_frame(self, seconds)
    if not first then return nil, payload, name, code end
    local opcode = first % 16
    if opcode == CLOSE then return closed(self, payload) end
    if opcode == PING then send_frame(self, 128 + PONG, payload) end
    if opcode <= BINARY then
      if (opcode == 0) ~= (self.kind ~= nil) then return finish(self, 1002, "a fragment out of place") end
      self.kind = self.kind or opcode == TEXT and "text" or "binary"
      self.parts[#self.parts + 1] = payload
      self.got = self.got + #payload
      if first >= 128 then
        local data, kind = table.concat(self.parts), self.kind
        self.parts, self.got, self.kind = {}, 0, nil
        if kind == "text" and not is_utf8(data) then return finish(self, 1007, "a text is no UTF-8") end
        return data, kind
      end
    end
  end
end

function Socket:send(data, kind, more)
  local opcode = self.fragments and 0 or kind == "binary" and BINARY or TEXT
  if kind and kind ~= "text" and kind ~= "binary" then error("websocket: a message is \"text\" or \"binary\"", 2) end
  if opcode == TEXT and not more and not is_utf8(data) then error("websocket: a text is UTF-8", 2) end
  self.fragments = more
  return send_frame(self, (more and 0 or 128) + opcode, data)
end

function Socket:ping(data) return send_frame(self, 128 + PING, data or "") end

-- Ends the conversation; messages that come meanwhile are lost. A task that is in receive sees the end.
function Socket:close(code, reason)
  code = code or 1000
  if not may_be_sent(code) or not is_utf8(reason or "") then error("websocket: bad close code or reason", 2) end
  send_frame(self, 128 + CLOSE, char(floor(code / 256), code % 256) .. (reason or ""))
  self.closing = true
  local deadline, data, _, name = psocket.now() + self.timeout, nil, nil, nil
  repeat data, _, name = self:receive(math.max(deadline - psocket.now(), 0.001)) until not data
  if name ~= "BUSY" then self.s:close() end
end

--- Handshakes

local function new(s, options, client, protocol)
  return setmetatable({ s = s, client = client, protocol = protocol, timeout = options.timeout or websocket.timeout,
    max = options.max or websocket.max, queue = {}, queued = 0, parts = {}, got = 0 }, Socket)
end

local function proof(key) return base64(sha1(key .. "258EAFA5-E914-47DA-95CA-C5AB0DC85B11")) end -- RFC 6455 4.2.2

-- The first of wanted that is in the list offered, "a, b, c".
local function choose(wanted, offered)
  for _, w in ipairs(wanted or {}) do
    if ("," .. (offered or ""):gsub("[ \t]", "") .. ","):find("," .. w .. ",", 1, true) then return w end
  end
end

function websocket.connect(url, options)
  options = options or {}
  local key = base64(random(16))
  local headers = { upgrade = "websocket", connection = "Upgrade", ["sec-websocket-key"] = key, ["sec-websocket-version"] = "13",
    ["sec-websocket-protocol"] = options.protocols and table.concat(options.protocols, ", ") }
  for k, v in pairs(options.headers or {}) do headers[k:lower()] = v end
  local r, message, name = http.request { url = url:gsub("^ws", "http", 1), headers = headers, tls = options.tls,
    timeout = options.timeout or websocket.timeout, redirects = 0, keep = false }
  if not r then return nil, message, name end
  if r.status ~= 101 then return nil, "the server answered " .. r.status .. " " .. r.reason, "HTTP" end
  local h, protocol = r.headers, choose(options.protocols, r.headers["sec-websocket-protocol"])
  if h["sec-websocket-accept"] == proof(key) and choose({ "websocket" }, (h.upgrade or ""):lower()) and
     protocol == h["sec-websocket-protocol"] and not h["sec-websocket-extensions"] then return new(r.socket, options, true, protocol) end
  r.socket:close()
  return nil, "the server's answer to the handshake is wrong", "WEBSOCKET"
end

function websocket.accept(s, request, options)
  options = options or {}
  local message, name, status
  if not request then request, message, name, status = http.receive(s, options) end
  local h = request and request.headers or {}
  local key = h["sec-websocket-key"] or ""
  if request then
    local asks = request.method == "GET" and #key == 24 and key:find("^[%w+/]+==$") and
      choose({ "websocket" }, (h.upgrade or ""):lower()) and choose({ "upgrade" }, (h.connection or ""):lower())
    status = not asks and 400 or h["sec-websocket-version"] ~= "13" and 426 or
      options.allow and not options.allow(request) and 403
    message, name = "no handshake, or one that is refused", "WEBSOCKET"
  end
  local head = "Sec-WebSocket-Version: 13\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
  if status then s:send(("HTTP/1.1 %d \r\n"):format(status) .. head) end
  if status or not request then return nil, message, name end
  local protocol = choose(options.protocols, h["sec-websocket-protocol"])
  s:send("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: " .. proof(key) ..
         (protocol and "\r\nSec-WebSocket-Protocol: " .. protocol or "") .. "\r\n\r\n")
  return new(s, options, false, protocol)
end

return websocket
