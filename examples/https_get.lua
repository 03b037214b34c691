-- https_get.lua URL [CA.pem]: fetches a page over HTTPS (or HTTP) and writes its body to standard output.
--
--     lua https_get.lua https://example.org/
--     lua https_get.lua https://localhost:8443/ ca.pem      -- trust the certificates in ca.pem, and only those
--
-- Outside of a coroutine every call waits, no longer than its time limit. The same lines work in a task of a scheduler.

local psocket = require "psocket"

local function fail(...)
  io.stderr:write("https_get: ", ...)
  io.stderr:write("\n")
  os.exit(1)
end

local url, ca_file = arg[1], arg[2]
local scheme, authority, path = (url or ""):match("^(https?)://([^/?#]+)([^#]*)$")
if not scheme then fail("usage: https_get.lua URL [CA.pem]") end
if path:sub(1, 1) ~= "/" then path = "/" .. path end
local host, port = authority:match("^%[(.+)%]:?(%d*)$") -- [::1]:8443
if not host then host, port = authority:match("^([^:]+):?(%d*)$") end
if not host then fail("bad host in ", url) end
port = tonumber(port) or (scheme == "https" and 443 or 80)

local s, message = psocket.connect(host, port, { timeout = 30 })
if not s then fail(message) end
if scheme == "https" then
  local ok
  ok, message = s:starttls(host, { ca_file = ca_file, alpn = { "http/1.1" } })
  if not ok then fail(message) end
  local info = s:tlsinfo()
  io.stderr:write(info.version, " ", info.suite, "\n")
end

s:send("GET " .. path .. " HTTP/1.1\r\nHost: " .. authority .. "\r\nConnection: close\r\n\r\n")

local head
head, message = s:read_until("\r\n\r\n")
if not head then fail("no answer: ", message) end
local status = head:match("^HTTP/1%.%d (%d%d%d)")
if not status then fail("this is no HTTP: ", (head:match("^[^\r]*"))) end
local fields = {}
for name, value in head:gmatch("\r\n([^:\r]+):[ \t]*([^\r]*)") do fields[name:lower()] = value end

-- Everything the server said must arrive: a connection that breaks is an error, not an end.
local function must(data, why)
  if not data then fail("cut short: ", why) end
  return data
end

local length = tonumber(fields["content-length"])
if (fields["transfer-encoding"] or ""):lower():find("chunked") then
  while true do
    local size = tonumber(must(s:read_until("\r\n", 1024)):match("^%x+") or fail("bad chunk"), 16)
    if size == 0 then break end
    while size > 0 do
      local part = must(s:read(math.min(size, 16384)))
      io.write(part)
      size = size - #part
    end
    must(s:read(2))
  end
elseif length then
  while length > 0 do
    local part = must(s:recv())
    io.write(part:sub(1, length))
    length = length - #part
  end
else
  while true do
    local part, why, name = s:recv()
    if not part then
      if name ~= "CLOSED" then fail("cut short: ", why) end
      break
    end
    io.write(part)
  end
end
s:close()
if status:sub(1, 1) ~= "2" then fail("the server answered ", (head:match("^[^\r]*"))) end
