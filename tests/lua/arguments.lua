-- Every function with arguments that make no sense, in and outside of coroutines: errors and failures, no crash.
local t = require "check"
local psocket = t.psocket
local check, equal = t.check, t.equal
t.limit = 60

local seed = 12345
local function random(n)
  seed = (seed * 16807) % 2147483647
  return seed % n + 1
end

local rsa = t.pem("rsa.pem") and { { chain = t.pem("rsa.pem"), private_key = t.pem("rsa.key") } } or {}
local function meddling(s)
  return setmetatable({}, {
    __index = function(_, k)
      local what = random(6)
      if what == 1 then error("from __index") end
      if what == 2 then s:close() end
      if what == 3 then getmetatable(s).__gc(s) end
      if what == 4 and coroutine.running() then coroutine.yield() end
      if what == 5 then s:unrecv("from __index") end
      if k == "timeout" then return 0.001 end
    end,
    __len = function() return 1e6 end,
  })
end

-- A thing of each kind; made anew now and then, since the calls close and change them.
local function things()
  local limits = { timeout = 0.001 }
  local a, b = psocket.pair(limits)
  local c, s = t.tcp(limits)
  c:settimeout(0.001)
  local closed = psocket.pair()
  closed:close()
  local gone = psocket.pair()
  getmetatable(gone).__gc(gone)
  local l = psocket.listen("127.0.0.1:0", limits)
  local shut = psocket.listen("127.0.0.1:0")
  shut:close()
  local sched = psocket.scheduler()
  local dead = psocket.scheduler()
  dead:add(function() end)
  dead:close()
  local ended = coroutine.create(function() end)
  coroutine.resume(ended)
  local u = psocket.udpserver("127.0.0.1:0", limits)
  return {
    a, b, c, s, closed, gone, l, shut, sched, dead, ended, u, -- and:
    1, 0, -1, 0.5, 1e300, -1e300, 0 / 0, 1 / 0, -1 / 0, 2 ^ 31, 2 ^ 32, 2 ^ 53, 65535, 65536,
    "", "x", "\0", "a\0b", "127.0.0.1", "127.0.0.1:0", "::1", "unix:", "send", "udp", "\r\n", ("y"):rep(70000), "localhost",
    true, false, {}, { 1, 2 }, limits, { timeout = -1 }, { timeout = "0.001" }, { udp = true }, rsa,
    { { chain = "x", private_key = "y" } }, { ca = "x" }, { alpn = { "h2" }, timeout = 0.001 }, { pins = {} },
    { insecure_no_verify = true, timeout = 0.001 }, { decide = function() return true end, timeout = 0.001 },
    { suites = { "x" } }, meddling(c), meddling(a), meddling(s),
    print and function() end, function() error("called") end, function(...) return ... end, coroutine.create(function() end),
    psocket.tls { insecure_no_verify = true }, io.stdout, psocket, psocket.scheduler,
  }
end

local calls = {}
for _, name in ipairs { "bind", "close", "connect", "geterror", "getlocal", "getpeer", "getside", "isopen", "istls", "isudp",
                        "listen", "now", "pair", "peek", "pending", "read", "read_until", "recv", "send", "setpeer",
                        "settimeout", "shutdown", "starttls", "tls", "tlsinfo", "udpserver", "unrecv", "wrap" } do
  check(psocket[name], name)
  calls[#calls + 1] = psocket[name]
end
local l = psocket.listen("127.0.0.1:0")
for _, name in ipairs { "accept", "close", "getlocal", "hasconnection", "settimeout", "__tostring", "__gc", "__close" } do
  calls[#calls + 1] = getmetatable(l)[name]
end
for _, name in ipairs { "add", "addloop", "close", "contains", "getfd", "new", "remove", "__tostring", "__close" } do
  calls[#calls + 1] = psocket.scheduler[name]
end
local settings = psocket.tls {}
if settings then
  for _, name in ipairs { "savesessions", "loadsessions", "__gc" } do calls[#calls + 1] = getmetatable(settings)[name] end
end
for _, name in ipairs { "__gc", "__close", "__tostring" } do calls[#calls + 1] = getmetatable((psocket.pair()))[name] end

for round = 1, 2 do
  t.test(round == 1 and "outside of coroutines" or "in coroutines", function()
    local all, raised, n = nil, 0, 0
    for i = 1, 4000 do
      if i % 40 == 1 then all = things() end
      local f = calls[random(#calls)]
      local x = { all[random(#all)], all[random(#all)], all[random(#all)], all[random(#all)] }
      if random(2) == 1 then x[1] = all[random(12)] end -- what methods are for
      -- what would wait for what never comes has no limit of its own: connections to nowhere
      if not (f == psocket.connect and type(x[1]) == "string" and #x[1] < 3) then
        n = n + 1
        local function call() return f(t.unpack(x, 1, random(5) - 1)) end
        if round == 1 then
          if not pcall(call) then raised = raised + 1 end
        else
          local co = coroutine.create(call)
          for _ = 1, 3 do
            local ok = coroutine.resume(co, i)
            if not ok then raised = raised + 1 end
            if coroutine.status(co) == "dead" then break end
          end
          if random(3) == 1 then collectgarbage("step") end
        end
      end
    end
    check(n > 3000 and raised > 500, n .. " calls, " .. raised .. " errors")
    all = nil
    collectgarbage()
    collectgarbage()
  end)
end

t.test("afterwards all is well", function()
  local a, b = psocket.pair()
  t.scheduled(function() a:send("x") end, function() equal(b:recv(), "x") end)
end)

t.finish()
