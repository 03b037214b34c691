-- https_server.lua PORT CHAIN.pem KEY.pem: "Hello, world!" over HTTPS. Port 0 is any free one.
--
--     lua https_server.lua 8443 chain.pem key.pem
--     curl --cacert ca.pem https://localhost:8443/
--
-- CHAIN.pem holds the server's certificate, then those between it and the root. Many clients are served at once, each
-- in its own coroutine.

local psocket = require "psocket"

local function fail(message)
  io.stderr:write("https_server: ", message, "\n")
  os.exit(1)
end

local function contents(name)
  local f, message = io.open(name, "rb")
  if not f then fail(message) end
  local text = f:read("*a")
  f:close()
  return text
end

local port, chain, key = arg[1], arg[2], arg[3]
if not key then fail("usage: https_server.lua PORT CHAIN.pem KEY.pem") end

-- The certificates are parsed here, once, so that a bad file is noticed now and not by the first client.
-- (starttls also takes the table itself.)
local certs, message = psocket.tls {
  { chain = contents(chain), private_key = contents(key) },
  alpn = { "http/1.1" },
}
if not certs then fail(message) end

local sched = psocket.scheduler()
sched.errorfunc = function(e) io.stderr:write(tostring(e), "\n") end -- one client's trouble is not the server's

local listener = psocket.bind(sched, port, function(s)
  s:settimeout(30)
  if not s:starttls(certs) then return end -- the socket is closed already
  if not s:read_until("\r\n\r\n", 8192) then return end
  local content = "Hello, world!\n"
  s:send("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nConnection: Close\r\nContent-Length: " .. #content ..
         "\r\n\r\n" .. content)
end) -- bind closes s when this function returns

print("listening on https://localhost:" .. select(2, listener:getlocal()) .. "/")
io.stdout:flush()
sched:run()
