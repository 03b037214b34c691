-- http.lua: HTTP/1.1 in one call, on psocket. A module to copy. In a coroutine it yields, elsewhere it blocks.
--
--     local http = require "http"
--     local r, message, name = http.request("https://example.org/")
--     print(r.status, r.headers["content-type"], #r.body)
--
--     http.request { url = "https://example.org/", method = "PUT", headers = { Accept = "text/html" },
--       body = "..." or a function that answers the next piece, nil at the end (it is sent in chunks),
--       sink = function(data) end,            -- gets the answer's body piece by piece; false stops the request
--       progress = function(got, total) end,  -- total is nil if the server does not say
--       max = 1000000,                        -- most bytes of the answer's body
--       timeout = 30, redirects = 5,          -- seconds, of all of it; how many are followed
--       tls = options or settings as for starttls (one table for many requests: connections are kept by it),
--       keep = false }                        -- neither to use a connection that is open already, nor to leave one open
--
-- The answer: status, reason, version, url (where redirects led), headers (names in small letters; repeated ones joined
-- by ", ", set-cookie by a line feed), body (unless there is a sink) and tls (as from tlsinfo). A failure is nil,
-- message, NAME, as everywhere in psocket; "HTTP" is the name if what the other side sent is no HTTP. What a body is
-- encoded with (gzip) is yours to ask for and to undo.
--
-- A server:   psocket.bind(sched, 8080, function(s) http.serve(s, handler) end)
-- handler(request, s) gets { method, target, path, query, headers, body } and answers a body, or a status, headers and
-- a body (a string, or a function as above). If it answers nothing, s is its own from then on (as for websocket.lua).

local psocket = require "psocket"

local http = {
  timeout = 30, redirects = 5, max = 64 * 1024 * 1024, -- what a request does not say
  max_request = 1024 * 1024, max_head = 65536,         -- most bytes of a body that a server takes, and of any header
  idle = 4,                                            -- connections kept open for each server
}
local reasons = { [200] = "OK", [302] = "Found", [400] = "Bad Request", [404] = "Not Found", [408] = "Request Timeout",
  [413] = "Content Too Large", [431] = "Request Header Fields Too Large", [501] = "Not Implemented" }
local TOKEN, CONTROL = "[%w!#$%%&'*+.^_`|~-]+", "[^\t%C]" -- RFC 9110 5.6.2; a control character that is no tab

-- A conversation c is a socket, the time by which all must be done, and what went wrong.
local function fail(c, message, name)
  c.message, c.name = message, name
  return nil
end

-- s:method(...), within what is left of the time.
local function call(c, method, ...)
  c.s:settimeout(math.max(c.deadline - psocket.now(), 0.001))
  local result, message, name = c.s[method](c.s, ...)
  return result or fail(c, message, name)
end

--- Both sides: heads and bodies (RFC 9112)

-- The first line and the fields of a head, or nil.
local function read_head(c)
  local head = call(c, "read_until", "\r\n\r\n", http.max_head)
  if not head then return c.name == "LIMIT" and fail(c, ("the header has more than %d bytes"):format(http.max_head), "LIMIT") or nil end
  local first, lines = head:match("^\r?\n?([^\r\n]*)\r\n(.*)\r\n$") -- an empty line before it is nothing (RFC 9112 2.2)
  local fields = {}
  for line in lines:gmatch("(.-)\r\n") do
    local name, value = line:match("^(" .. TOKEN .. "):[ \t]*(.-)[ \t]*$")
    if not name or value:find(CONTROL) then return fail(c, "malformed header", "HTTP") end
    name = name:lower()
    local before = fields[name] and fields[name] .. (name == "set-cookie" and "\n" or ", ") or ""
    fields[name] = before .. value
  end
  return first, fields
end

local function has_token(list, token)
  return (("," .. (list or "") .. ","):lower():gsub("[ \t]", "")):find("," .. token .. ",", 1, true) ~= nil
end

-- How the body behind these fields is framed: "chunked", a number of bytes, or math.huge if nothing says so.
local function framing(c, fields)
  local coding, length = fields["transfer-encoding"], fields["content-length"]
  if coding then return coding:lower() == "chunked" and "chunked" or fail(c, "unknown Transfer-Encoding", "HTTP") end
  local n = (length or ""):match("^%d+") -- the same number again is allowed
  if not length then return math.huge end
  if not n or #n > 15 or (length .. ","):gsub(n .. " *, *", "") ~= "" then return fail(c, "bad Content-Length", "HTTP") end
  return tonumber(n)
end

-- Hands n bytes (math.huge: all until the end) to b = { take =, max =, got =, total =, progress = }.
local function pass(c, n, b)
  while n > 0 do
    local data = call(c, n <= 16384 and "read" or "recv", n <= 16384 and n or nil)
    if not data then return n == math.huge and c.name == "CLOSED" or nil end
    if #data > n then
      c.s:unrecv(data:sub(n + 1))
      data = data:sub(1, n)
    end
    n, b.got = n - #data, b.got + #data
    if b.got > b.max then return fail(c, ("the body has more than %d bytes"):format(b.max), "LIMIT") end
    if b.take(data) == false then return fail(c, "stopped by the sink", "CLOSED_HERE") end
    if b.progress then b.progress(b.got, b.total) end
  end
  return true
end

local function read_chunks(c, b)
  local line, size
  repeat
    line = call(c, "read_until", "\r\n", 1024)
    local digits = line and line:match("^(%x+)[ \t]*[;\r]")
    if not digits or #digits > 12 then return line and fail(c, "malformed chunk", "HTTP") end
    size = tonumber(digits, 16)
    if not pass(c, size, b) then return nil end
    local after = size == 0 and "\r\n" or call(c, "read", 2)
    if after ~= "\r\n" then return after and fail(c, "a chunk is longer than it said", "HTTP") end
  until size == 0
  for _ = 1, 100 do -- the trailer means nothing here
    line = call(c, "read_until", "\r\n", 8192)
    if not line or line == "\r\n" then return line end
  end
  return fail(c, "the trailer is too long", "HTTP")
end

local function read_body(c, how, b)
  b.total = how ~= "chunked" and how < math.huge and how or nil
  local done = how == "chunked" and read_chunks(c, b) or how ~= "chunked" and pass(c, how, b)
  if done or c.name ~= "CLOSED" then return done end
  return fail(c, ("cut short after %d bytes of the body"):format(b.got + c.s:pending()), "TRUNCATED")
end

-- Sends a head and the body: a string, a function, or nil. headers are the user's, ours come first.
local function send(c, first, ours, headers, body, head_only)
  for name, value in pairs(headers or {}) do ours[name:lower()] = tostring(value) end
  if type(body) == "function" then ours["transfer-encoding"] = "chunked"
  elseif body then ours["content-length"] = ("%d"):format(#body) end
  local lines = { first }
  for name, value in pairs(ours) do
    if not name:find("^" .. TOKEN .. "$") or value:find(CONTROL) then error("http: bad header field " .. name, 0) end
    lines[#lines + 1] = ("-" .. name):gsub("%-%l", string.upper):sub(2) .. ": " .. value
  end
  lines[#lines + 1] = "\r\n"
  local head = table.concat(lines, "\r\n")
  if head_only or type(body) ~= "function" then return call(c, "send", head_only and head or head .. (body or "")) end
  local ok, piece = call(c, "send", head), nil
  while ok do
    piece = body()
    if not piece then return call(c, "send", "0\r\n\r\n") end
    if piece ~= "" then ok = call(c, "send", ("%x\r\n%s\r\n"):format(#piece, piece)) end
  end
end

--- Clients

local function parse_url(c, text)
  local scheme, authority, target = text:match("^(%a+)://([^/?#]*)([^#]*)")
  scheme = (scheme or ""):lower()
  if scheme ~= "http" and scheme ~= "https" then return fail(c, "no URL with http:// or https://: " .. text, "INVALID") end
  local host, port = authority:match("^%[([%x:.]+)%]:?(%d*)$")
  if not host then host, port = authority:match("^([^:@%[%]]+):?(%d*)$") end
  port = tonumber(port ~= "" and port or scheme == "https" and 443 or 80)
  if not host or not port or text:find("[%c ]") then return fail(c, "bad URL: " .. text, "INVALID") end
  return { tls = scheme == "https", host = host, port = port, authority = authority, base = scheme .. "://" .. authority,
           target = (target:find("^/") and "" or "/") .. target, origin = scheme .. "://" .. host:lower() .. " " .. port }
end

-- The URL that a Location means (RFC 3986 5.2).
local function resolve(url, location)
  if location:find("^%a[%w+.-]*:") then return location end
  if location:find("^//") then return url.base:match("^%a+:") .. location end
  local path, query = location:match("^([^?#]*)(.*)$")
  local from = url.target:match("^[^?]*")
  if path == "" then return url.base .. from .. query end
  if path:sub(1, 1) ~= "/" then path = from:match("^.*/") .. path end
  local kept = {}
  for segment in path:gsub("/%.%.?$", "%0/"):gmatch("/([^/]*)") do
    if segment == ".." then kept[#kept] = nil elseif segment ~= "." then kept[#kept + 1] = segment end
  end
  return url.base .. "/" .. table.concat(kept, "/") .. query
end

local default_tls = { alpn = { "http/1.1" } }
local pools = setmetatable({}, { __mode = "k" }) -- TLS options -> origin -> idle sockets

-- The idle sockets that this request may use.
local function idle(t, url)
  if t.keep == false then return {} end
  local pool = pools[t.tls or default_tls] or {}
  pools[t.tls or default_tls] = pool
  pool[url.origin] = pool[url.origin] or {}
  return pool[url.origin]
end

-- Gives c a socket: true; "kept" if it was open already; nil.
local function open(c, t, url)
  local list, message, name = idle(t, url), nil, nil
  while #list > 0 do
    c.s = table.remove(list)
    if c.s:isopen() and c.s:pending() == 0 then return "kept" end
    c.s:close()
  end
  c.s, message, name = psocket.connect(url.host, url.port, { timeout = math.max(c.deadline - psocket.now(), 0.001) })
  if not c.s then return fail(c, message, name) end
  return not url.tls or call(c, "starttls", url.host, t.tls or default_tls)
end

-- One request and the answer to it, or nil; then a second result says that it may be tried on another connection.
local function exchange(c, t, url, method, headers, body)
  local opened = open(c, t, url)
  if not opened then return nil end
  local sent = send(c, method .. " " .. url.target .. " HTTP/1.1", { host = url.authority }, headers, body)
  local first, fields, version, status, reason
  repeat -- an answer may come before all has been read, so a failed send is not the end
    first, fields = read_head(c)
    if not first then
      local gone = (c.name == "CLOSED" or c.name == "RESET") and c.s:pending() == 0 -- closed as the request left
      c.s:close()
      return fail(c, "no answer: " .. c.message, c.name), gone and opened == "kept" and type(body) ~= "function"
    end
    version, status, reason = first:match("^HTTP/(1%.%d) (%d%d%d)(.*)$")
    if not version or reason:find("^[^ ]") then return fail(c, "this is no HTTP: " .. first:sub(1, 60), "HTTP") end
  until not status:find("^1") or status == "101"
  local r = { version = version, status = tonumber(status), reason = reason:sub(2), headers = fields,
              url = url.base .. url.target, tls = url.tls and c.s:tlsinfo() or nil }
  if status == "101" then r.socket = c.s return r end
  r.location = (" 301 302 303 307 308 "):find(status, 1, true) and fields.location
  local how, pieces = framing(c, fields), {}
  if method == "HEAD" or status == "204" or status == "304" then how = 0 end
  local b = { got = 0, max = t.max or t.sink and math.huge or http.max, progress = not r.location and t.progress,
              take = not r.location and t.sink or function(data) pieces[#pieces + 1] = data end }
  if not how or not read_body(c, how, b) then return c.s:close() end
  if r.location or not t.sink then r.body = table.concat(pieces) end
  local list = idle(t, url)
  if sent and how ~= math.huge and version == "1.1" and not has_token(fields.connection, "close") and
     t.keep ~= false and #list < http.idle then list[#list + 1] = c.s else c.s:close() end
  return r
end

local options = { url = 1, method = 1, headers = 1, body = 1, sink = 1, progress = 1, max = 1, timeout = 1, redirects = 1, tls = 1, keep = 1 }
function http.request(t)
  if type(t) == "string" then t = { url = t } end
  local c = { deadline = psocket.now() + (t.timeout or http.timeout) }
  local method, body, left = t.method or (t.body and "POST" or "GET"), t.body, t.redirects or http.redirects
  for name in pairs(t) do if not options[name] then error("http.request: unknown option " .. tostring(name), 2) end end
  if not method:find("^" .. TOKEN .. "$") then error("http.request: bad method " .. method, 2) end
  local url, before = parse_url(c, t.url), nil
  local headers = { connection = t.keep == false and "close" or nil }
  for name, value in pairs(t.headers or {}) do headers[name:lower()] = value end
  while url do
    local r, again
    repeat r, again = exchange(c, t, url, method, headers, body)
    until not again or not (" GET HEAD PUT DELETE OPTIONS "):find(" " .. method .. " ", 1, true)
    if not r or not r.location or left == 0 then return r, c.message, c.name end
    if (r.status == 303 or r.status < 303 and method == "POST") and method ~= "HEAD" then method, body = "GET", nil end
    if type(body) == "function" then return r end -- it can be called but once
    before, url, left = url, parse_url(c, resolve(url, r.location)), left - 1
    if url and before.tls and not url.tls then url = fail(c, "redirected from https to " .. r.location, "HTTP") end
    if url and url.origin ~= before.origin then -- these were meant for the other server
      headers.authorization, headers.cookie, headers.host = nil, nil, nil
    end
  end
  return nil, c.message, c.name
end

--- Servers

-- The next request on s; or nil, message, NAME, and the status to answer with if the client is still there.
function http.receive(s, options)
  options = options or {}
  local c = { s = s, deadline = psocket.now() + (options.timeout or http.timeout) }
  local status = { LIMIT = 431, HTTP = 400, TIMEOUT = 408 }
  local first, fields = read_head(c)
  if not first then return nil, c.message, c.name, (c.name ~= "TIMEOUT" or s:pending() > 0) and status[c.name] or nil end
  local method, target, minor = first:match("^(" .. TOKEN .. ") (%S+) HTTP/1%.(%d)$")
  if not method or minor ~= "0" and not fields.host or (fields.host or ""):find(",") then return nil, "malformed request", "HTTP", 400 end
  local coding, length = fields["transfer-encoding"], fields["content-length"]
  local how = not (coding or length) and 0 or framing(c, fields)
  if not how or coding and (length or minor == "0") then -- what request smuggling is made of (RFC 9112 11.2)
    return nil, "bad framing of the body", "HTTP", length and 400 or 501
  end
  local pieces, b = {}, { got = 0, max = options.max or http.max_request }
  function b.take(data) pieces[#pieces + 1] = data end
  status.LIMIT = 413
  if how ~= "chunked" and how > b.max then return nil, "the body is too long", "LIMIT", 413 end
  if has_token(fields.expect, "100-continue") and how ~= 0 then call(c, "send", "HTTP/1.1 100 Continue\r\n\r\n") end
  if not read_body(c, how, b) then return nil, c.message, c.name, status[c.name] end
  local path, query = target:gsub("^%a+://[^/?]*", ""):match("^([^?]*)%??(.*)$")
  return { method = method, target = target, path = path == "" and "/" or path, query = query, headers = fields,
           body = table.concat(pieces), keep = minor ~= "0" and not has_token(fields.connection, "close") }
end

-- Serves the requests of one connection until it ends. options: timeout and max (bytes of a body), of each request.
function http.serve(s, handler, options)
  repeat
    local request, message, _, status = http.receive(s, options)
    local answer, headers, body = status, nil, status and message .. "\n"
    if request then answer, headers, body = handler(request, s) end
    if answer == nil then return end -- the client has gone, or s is the handler's now
    if type(answer) ~= "number" then answer, headers, body = 200, {}, answer end
    local keep, head = request and request.keep, request and request.method == "HEAD"
    local ours = { connection = keep and "keep-alive" or "close", ["content-type"] = "text/plain; charset=utf-8" }
    if answer == 204 or answer == 304 then body, head = nil, true elseif not body then body = "" end
    local c = { s = s, deadline = psocket.now() + (options and options.timeout or http.timeout) }
    local sent = send(c, ("HTTP/1.1 %d %s"):format(answer, reasons[answer] or ""), ours, headers, body, head)
  until not sent or not keep
end

return http
