-- What memory_host.c runs with psocket's own allocator: whichever allocation of C's fails while a script uses what there is,
-- each call answers (a failure names NOMEM, or what became of the peer for want of memory), and then all works again.
local psocket = require "psocket"
local function file(name)
  local f = io.open((os.getenv("PSOCKET_CERTS") or "build/certs") .. "/" .. name, "rb")
  local text = f and f:read("*a")
  if f then f:close() end
  return text
end
local ca, chain, key = file("ca.pem"), file("ec.pem"), file("ec.key")
local tls = ca and select(3, psocket.tls {}) ~= "UNSUPPORTED"
local certs = tls and { { chain = chain, private_key = key } }
local known = { NOMEM = 1, TIMEOUT = 1, CLOSED = 1, TRUNCATED = 1, RESET = 1, CLOSED_HERE = 1, DNS = 1, REFUSED = 1, INVALID = 1,
                TLS_ALERT = 1, PLAINTEXT = 1, BUSY = 1, LIMIT = 1, DESCRIPTORS = 1 }

-- An old queue goes on: what is in it comes out in order, and nothing is lost.
local old = psocket.queue()
age(old)
for i = 1, 6 do assert(old:push(i)) end
assert(#old == 7 and old:pop() == true)
for i = 1, 6 do assert(old:pop { timeout = 0.001 } == i, i) end
assert(#old == 0)

-- What a call answers; nil if it raises, which only a lack of memory may make it do.
local function try(what, f, ...)
  local ok, a, b, c = pcall(f, ...)
  if not ok and not tostring(a):find("memory", 1, true) then error(what .. ": " .. tostring(a), 0) end
  if ok and not a and type(c) == "string" and not known[c] then error(what .. ": " .. c .. ": " .. tostring(b), 0) end
  return ok and a or nil
end

local function serve(s)
  if certs and not try("starttls", s.starttls, s, certs) then return end
  local question = try("recv", s.recv, s, { timeout = 1 })
  if question then try("send", s.send, s, question) end
  s:close()
end

local limit = { timeout = N == 0 and 5 or 0.1 }
local function ask(port)
  local c = try("connect", psocket.connect, "127.0.0.1", port, limit)
  if not c then return end
  if certs and not try("starttls", c.starttls, c, "localhost", { ca = ca, timeout = limit.timeout }) then return c:close() end
  local got = try("send", c.send, c, "question") and try("recv", c.recv, c, limit)
  try("tlsinfo", c.tlsinfo, c)
  if certs then try("export", c.export, c, "EXPORTER-test", 32) end
  c:close()
  return got
end

local l = assert(psocket.listen("127.0.0.1:0"))
local _, taken = l:getlocal()
local waiting = { assert(psocket.connect("127.0.0.1", taken)), assert(psocket.connect("127.0.0.1", taken)) }

if N > 0 then arm(N, M) end
for i = 1, 2 do -- outside of tasks
  local s = try("accept", l.accept, l, { timeout = 0.001 })
  if s then try("send", s.send, s, "hello") s:close() end
  try("geterror", l.geterror or psocket.now, l)
end
local sched, answer = psocket.scheduler(), nil
sched.errorfunc = function(_, e)
  if not tostring(e):find("memory", 1, true) then io.stderr:write(tostring(e), "\n") end
end
local bound = try("bind", psocket.bind, sched, "127.0.0.1:0", serve)
local port = bound and select(2, bound:getlocal())
try("add", sched.add, sched, function() answer = bound and ask(port) end)
try("add", sched.add, sched, function() -- a listener in a task waits for memory
  local s = try("accept", l.accept, l, { timeout = 0.001 })
  if s then s:close() end
end)
try("add", sched.add, sched, function() try("sleep", sched.sleep, sched, 0.001) end)
try("add", sched.add, sched, function()
  try("resolve", psocket.connect, "a.test", taken, { timeout = 0.1, resolve = function() return { "127.0.0.1", "::1" } end })
end)
local a, b = psocket.pair { recv_limit = 100000 }
if a then
  try("send", a.send, a, ("x"):rep(30000), "y")
  try("unrecv", b.unrecv, b, "once more")
  for _ = 1, 3 do try("peek", b.peek, b) try("recv", b.recv, b, { timeout = 0.001 }) end
  try("read", b.read, b, 20, { timeout = 0.001 })
  try("read_until", b.read_until, b, "y", { timeout = 0.001 })
  try("shutdown", a.shutdown, a)
  local above = try("wrap", psocket.wrap, b)
  if above then try("recv", above.recv, above, { timeout = 0.001 }) end
end
local u = try("udpserver", psocket.udpserver, "127.0.0.1:0", { timeout = 0.001 })
if u then
  try("setpeer", u.setpeer, u, "127.0.0.1", taken)
  try("send", u.send, u, "datagram")
  try("recv", u.recv, u)
end
for _ = 1, N == 0 and 300 or 10 do
  local ok, live = pcall(sched.step, sched, 0.01)
  if answer or (ok and not live) then break end
end
if certs then
  local settings = try("tls", psocket.tls, { ca = ca, alpn = { "a", "b" }, groups = "x25519:secp256r1" })
  if settings then try("loadsessions", settings.loadsessions, settings, settings:savesessions() or "") end
end
arm()
limit.timeout = 5

for _, s in ipairs(waiting) do s:close() end
if N == 0 then assert(answer == "question", "nothing came back") end
-- whatever happened, it works now: the same server, if there is one, and a new one
for _, again in ipairs { bound or false, false } do
  if again == false then again = assert(psocket.bind(sched, "127.0.0.1:0", serve)) end
  local _, at = again:getlocal()
  local got
  local co = sched:add(function() got = ask(at) end)
  local stop = psocket.now() + 5
  repeat sched:step(0.01) until not sched:contains(co) or psocket.now() > stop
  assert(got == "question", "the server has died")
  again:close()
end
sched:close()
l:close()
