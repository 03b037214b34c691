-- messages.lua: what a refusal says, read by someone who sees it for the first time: what happened, to what, what now.
local t = require "check"
local socket = t.psocket
local check, equal = t.check, t.equal

-- How often `part`, plain text, stands in `text`.
local function count(text, part)
  local n, at = 0, 0
  repeat
    at = text:find(part, at + 1, true)
    if at then n = n + 1 end
  until not at
  return n
end

-- f(...) fails with NAME (false: raises) and says all of these.
local function says(name, parts, f, ...)
  local ok, a, b, c = pcall(f, ...)
  local text
  if name then
    check(ok and not a, ok and "did not fail" or a)
    equal(c, name)
    text = b
  else
    check(not ok, "did not raise")
    text = a
  end
  for _, part in ipairs(parts) do check(count(text, part) >= 1, ("nothing like %q in %q"):format(part, text)) end
  return text
end

t.test("the scheduler's class in place of a scheduler", function()
  says(false, { "write scheduler()" }, socket.bind, socket.scheduler, "127.0.0.1:0", print)
end)

t.test("addresses print their port once", function()
  local l = assert(socket.listen("127.0.0.1:0"))
  local _, port = l:getlocal()
  port = tostring(port)
  local function once(name, where, f, ...)
    local text = says(name, { where }, f, ...)
    check(count(text, port) == 1, text)
  end
  once("ADDRESS_IN_USE", "127.0.0.1:" .. port, socket.listen, "127.0.0.1:" .. port)
  once("ADDRESS_IN_USE", "all addresses", socket.listen, tonumber(port))
  once(false, "127.0.0.1:" .. port, socket.bind, socket.scheduler(), "127.0.0.1:" .. port, print)
  l:close()
  once("REFUSED", "127.0.0.1:" .. port, socket.connect, "127.0.0.1", tonumber(port))
  once("REFUSED", "\"localhost\"", socket.connect, "localhost", tonumber(port), { resolve = function() return { "127.0.0.1" } end })
  local u = assert(socket.udpserver("127.0.0.1:0"))
  port = tostring(select(2, u:getlocal()))
  once("ADDRESS_IN_USE", "127.0.0.1:" .. port, socket.udpserver, "127.0.0.1:" .. port)
end)

t.test("an address without a port", function()
  for _, address in ipairs { "127.0.0.1", "::1", "[::1]" } do
    says("INVALID", { "no port in \"" .. address .. "\"", "port 0 takes any" }, socket.listen, address)
    says("INVALID", { "no port in \"" .. address .. "\"", "port 0 takes any" }, socket.udpserver, address)
    says(false, { "no port in \"" .. address .. "\"", "port 0 takes any" }, socket.bind, socket.scheduler(), address, print)
  end
end)

t.test("a refusal repeats what was given", function()
  says("INVALID", { "127.0.0.1:99999", "address:port" }, socket.listen, "127.0.0.1:99999")
  says("INVALID", { "host.example:80", "numeric" }, socket.listen, "host.example:80")
  says("INVALID", { "99999", "65535" }, socket.listen, 99999)
  says("INVALID", { "99999", "65535", "127.0.0.1" }, socket.connect, "127.0.0.1", 99999)
  says("INVALID", { "port", "0" }, socket.connect, "127.0.0.1", 0)
  says("DNS_NOT_FOUND", { "\"nowhere.invalid\"", "no such host" }, socket.connect, "nowhere.invalid", 80, { resolve = function() return {} end })
  local u = assert(socket.udpserver("127.0.0.1:0"))
  says("INVALID", { "\"localhost\"", "9" }, u.setpeer, u, "localhost", 9)
  says("INVALID", { "127.0.0.1", "99999" }, u.setpeer, u, "127.0.0.1", 99999)
  says("INVALID", { "setpeer" }, u.send, u, "x")
  says(false, { "\"timeuot\"", "nearest is \"timeout\"" }, socket.connect, "127.0.0.1", 1, { timeuot = 1 })
end)

if select(3, socket.tls {}) == "UNSUPPORTED" then t.skip("tls", "no TLS in this build") else
  t.test("a refusal of TLS settings repeats what was given", function()
    says("FILE", { "/no/such/ca.pem", "No such file" }, socket.tls, { ca_file = "/no/such/ca.pem" })
    says("FILE", { "/no/such/cert.pem" }, socket.tls, { identities = { { cert_file = "/no/such/cert.pem", key_file = "/no/such/key.pem" } } })
    says("INVALID", { "suites", "TLS_FOO" }, socket.tls, { suites = "TLS_FOO" })
    says("INVALID", { "groups", "P-224" }, socket.tls, { groups = "P-224" })
    says("TLS_PEM", { "ca: no certificate found", "PEM" }, socket.tls, { ca = "x" })
    says(false, { "client_auth", "\"none\", \"optional\" or \"required\"" }, socket.tls, { client_auth = "maybe" })
    local a = socket.pair()
    says("INVALID", { "exa mple" }, a.starttls, a, "exa mple")
  end)
end

t.test("what each name means and whether a retry is worth it, in README's table", function()
  local f = io.open("README.md")
  local readme = f and f:read("*a") or ""
  if f then f:close() end
  local table_of = readme:match("\n| name | meaning | worth a retry%? |\n(.-)\n\n")
  check(table_of, "no such table")
  local header = assert(io.open("psocket.h"))
  local names = 0
  for name in header:read("*a"):gmatch("\n    X%(([A-Z0-9_]+), *%-%d+,") do
    names = names + 1
    if not name:find("^WANT_") then check(table_of:find("`" .. name .. "`", 1, true), name .. " is not in README's table of errors") end
  end
  header:close()
  check(names > 40, names)
  for row in table_of:gmatch("[^\n]+") do check(row:match("^|[^|]+|[^|]+| *[^ |]"), "a row without an answer: " .. row) end
end)
t.finish()
