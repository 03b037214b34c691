-- What memory_host.c runs: a little of everything; arm(N, M) lets an allocation fail from there on.
local psocket = require "psocket"
if jit and N > 0 then jit.off() end -- LuaJIT's compiled code crashes when its own allocations fail
local threads = N == 0

-- Nothing is lost: what a failed call would have returned comes from the next one.
local function again(f, ...)
  local ok, a, b, c = pcall(f, ...)
  if ok then return a, b, c end
  if not tostring(a):find("not enough memory", 1, true) then error(a, 0) end
  arm()
  return f(...)
end

local a, b = psocket.pair()
local text = {}
for i = 1, 1000 do text[i] = ("%07d\n"):format(i) end
text = table.concat(text)
b:unrecv(text:sub(4001)) -- two chunks
b:unrecv(text:sub(1, 4000))
local line = psocket.pair()
line:unrecv("one\ntwo\n")
local c, d = psocket.pair()

if N > 0 then arm(N, M) end

-- reads
local parts = {
  again(b.read, b, 3), again(b.read_until, b, "\n"), again(b.read, b, 3992), again(b.peek, b), again(b.recv, b),
}
arm()
assert(parts[1] .. parts[2] .. parts[3] .. parts[5] == text, "bytes were lost or mixed up")
assert(parts[4] == parts[5])

if N > 0 then arm(N, M) end
local ok, message = pcall(function()
  local sched = psocket.scheduler()
  local l = assert(psocket.bind(sched, "127.0.0.1:0", function(s)
    while true do
      local data = s:recv()
      if not data then return end
      s:send(data)
    end
  end))
  local _, port = l:getlocal()
  sched:add(function()
    local s = assert(psocket.connect("a.test", port, { timeout = 5, resolve = function() return { "127.0.0.1" } end }))
    s:send("echo")
    assert(s:read(4) == "echo")
    assert(s:tlsinfo() == nil)
    s:close()
    l:close()
  end)
  sched:add(function() assert(d:read_until("\n") == "line\n") end)
  sched:add(function() c:send("li") sched:sleep(0.001) c:send("ne\n") end)
  local errors = 0
  sched.errorfunc = function() errors = errors + 1 end
  sched:add(function() error("on purpose") end)
  for i = 1, 20 do sched:add(function() coroutine.yield(i) end) end
  local inner = psocket.scheduler()
  inner:add(function() inner:sleep(0.001) end)
  sched:add(function() inner:run() end)
  for _ = 1, threads and 100000 or 40 do
    if not sched:step(0.001) then break end
  end
  tostring(l)
  a:geterror()
  b:close()
  a:send("x")
  a:geterror()
  psocket.udpserver("127.0.0.1:0", { broadcast = true, timeout = 1 }):close()
  a:setyield(false)
  a:settimeout(1)
  for _, f in ipairs { "isopen", "isudp", "istls", "getside", "getpeer", "getlocal", "getfd", "pending", "peek" } do a[f](a) end
  local g, h = psocket.pair { recv_limit = 70000, keepalive = 5 }
  g:send("one\n", "two\n")
  g:send { "three", "\n", "rest" }
  g:shutdown("send", { timeout = 1 })
  for line in h:lines() do assert(#line > 2) end
  h:unrecv("again")
  h:finish(0.01)
  local q = psocket.queue()
  sched:add(function() q:pop { timeout = 0.01 } q:pop() end)
  q:push(5)
  q:push("x")
  local co = sched:add(function() sched:sleep(0.001) return 1, 2 end)
  local joined
  sched:add(function() joined = select("#", sched:join(co)) end)
  local turns = 0
  repeat
    turns = turns + 1
    sched:step(0.001)
  until turns >= 20 and (joined or N > 0) or turns == 20000
  if N == 0 then assert(joined == 2) end
  sched:remove(sched:add(function() sched:sleep(5) end))
  sched:contains(co)
  sched:getfd()
  pcall(a.recv, a, { timout = 5 })
  pcall(psocket.bind, 5)
  tostring(sched)
  q:close()
  psocket.wrap(c)
  if N == 0 then assert(errors == 1) end
end)
arm()
if not ok and N == 0 then error(message, 0) end
-- a handshake that asks
local function file(name)
  local f = io.open((os.getenv("PSOCKET_CERTS") or "build/certs") .. "/" .. name, "rb")
  local text = f and f:read("*a")
  if f then f:close() end
  return text
end
local ca, chain, key = file("ca.pem"), file("ec.pem"), file("ec.key")
if ca and select(3, psocket.tls {}) ~= "UNSUPPORTED" then
  local e, f = psocket.pair()
  local certs, answer = { { chain = chain, private_key = key } }, nil
  if N > 0 then arm(N, M) end
  local done, why = pcall(function()
    local sched = psocket.scheduler()
    sched.errorfunc = function() end
    sched:add(function() f:starttls(certs, { alpn = { "a", "b" } }) end)
    local settings = psocket.tls {
      ca = ca, alpn = { "b" }, decide = function(peer) return type(peer.subject) == "string" end, min_version = "TLSv1.2",
      clock = function() return os.time() end, suites = { "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256" },
    }
    sched:add(function() answer = e:starttls("localhost", settings) end)
    for _ = 1, threads and 100000 or 30 do
      if not sched:step(0.001) then break end
    end
    settings:loadsessions(settings:savesessions() or "")
    e:export("EXPORTER-test", 32)
    e:tlsinfo()
  end)
  arm()
  if N == 0 then assert(answer == true) end
  if not done then ok, message = done, why end
end
-- whatever happened, things still work
local x, y = psocket.pair()
x:send("fine")
assert(y:recv() == "fine")
local sched, ran = psocket.scheduler(), false
sched:add(function() coroutine.yield() ran = true end)
sched:run()
assert(ran)
if not ok then error(message, 0) end
