-- Every method of sockets and listeners in every state, in a task, in a home-made coroutine and outside, with usual and silly
-- arguments: no crash, no hang, an answer of the agreed form (a value; or nil, message, NAME; starttls: false for nil), and
-- errors raised only for wrong arguments.
local t = require "check"
local psocket = t.psocket
local LIMIT = 0.005

local function identity()
  return { { chain = t.pem("ec.pem"), private_key = t.pem("ec.key") } }
end
local client_options = { ca = t.pem("ca.pem") }
local server_options = identity()

-- Runs f as a coroutine of its own beside others, until it has ended or that takes too long.
local function together(...)
  local all, till = {}, psocket.now() + 5
  for i = 1, select("#", ...) do all[i] = coroutine.create((select(i, ...))) end
  local left = #all
  while left > 0 and psocket.now() < till do
    left = 0
    for i = 1, #all do
      if coroutine.status(all[i]) ~= "dead" then
        local ok, message = coroutine.resume(all[i])
        if not ok then error(message, 0) end
        if coroutine.status(all[i]) ~= "dead" then left = left + 1 end
      end
    end
  end
  if left > 0 then error("not finished in time") end
end

local states = {
  { "open", function() return t.tcp() end },
  { "open, data", function()
    local a, b = t.tcp()
    b:send("hello\n")
    return a, b
  end },
  { "TLS", function()
    local a, b = t.tcp()
    together(function() assert(a:starttls("localhost", client_options)) end, function() assert(b:starttls(server_options)) end)
    return a, b
  end },
  { "half-closed here", function()
    local a, b = t.tcp()
    if a.shutdown then a:shutdown() end
    return a, b
  end },
  { "peer gone", function()
    local a, b = t.tcp()
    b:close()
    return a, b
  end },
  { "peer gone, data", function()
    local a, b = t.tcp()
    b:send("hello\n")
    b:close()
    return a, b
  end },
  { "reset", function()
    local a, b = t.tcp()
    a:send("unread")
    b:close()
    a:send("x")
    return a, b
  end },
  { "closed here", function()
    local a, b = t.tcp()
    a:close()
    return a, b
  end },
  { "no TLS at the other end", function()
    local a, b = t.tcp()
    b:send("HTTP/1.0 400 Bad Request\r\n\r\n")
    a:settimeout(0.2)
    pcall(a.starttls, a, "localhost", client_options)
    return a, b
  end },
  { "silent TLS", function()
    local a, b = t.tcp()
    a:settimeout(0.01)
    a:starttls("localhost", client_options)
    return a, b
  end },
  { "pair", function() return psocket.pair() end },
  { "UDP", function()
    local a = psocket.udpserver and psocket.udpserver("127.0.0.1:0")
    if not a then a = psocket.listen("127.0.0.1:0", { udp = true }) end
    return a
  end },
  { "listener", function() return psocket.listen("127.0.0.1:0") end },
  { "listener, closed", function()
    local l = psocket.listen("127.0.0.1:0")
    l:close()
    return l
  end },
  { "listener, queue", function()
    local l = psocket.listen("127.0.0.1:0")
    local _, port = l:getlocal()
    return l, psocket.connect("127.0.0.1", port)
  end },
}

-- name, then arguments; silly: an error may be raised
local calls = {
  { "recv" }, { "recv", { timeout = LIMIT } }, { "recv", {}, silly = true }, { "recv", 5, silly = true }, { "recv", { timout = 1 }, silly = true },
  { "read", 1 }, { "read", 0, silly = true }, { "read", -1, silly = true }, { "read", 2 ^ 40, silly = true }, { "read", "x", silly = true }, { "read", silly = true },
  { "read_until", "\n" }, { "read_until", "\n", 3 }, { "read_until", "", silly = true }, { "read_until", silly = true }, { "read_until", "\n", -1, silly = true },
  { "peek" }, { "unrecv", "again" }, { "unrecv", "" }, { "unrecv", silly = true }, { "unrecv", {}, silly = true },
  { "send", "x" }, { "send", "" }, { "send", silly = true }, { "send", {}, silly = true }, { "send", 12, silly = true }, { "send", "x", { timeout = LIMIT } },
  { "isopen" }, { "istls" }, { "getpeer" }, { "getlocal" }, { "getside" }, { "tlsinfo" }, { "gettlsinfo" }, { "pending" },
  { "settimeout", LIMIT }, { "settimeout", -1, silly = true }, { "settimeout", "x", silly = true }, { "settimeout" , 0 / 0, silly = true },
  { "shutdown" }, { "close" }, { "close" }, { "setpeer", "127.0.0.1", 9 }, { "setpeer", "name", 9, silly = true }, { "setpeer", silly = true },
  { "starttls", "localhost", client_options }, { "starttls", server_options, silly = true }, { "starttls", silly = true }, { "starttls", 5, silly = true },
  { "starttls", "localhost", { nonsense = 1 }, silly = true }, { "starttls", {}, silly = true },
  { "accept", { timeout = LIMIT } }, { "accept", 3, silly = true }, { "hasconnection" }, { "wrap" }, { "getfd" }, { "flush" },
}

local names = {}
for name in ("TIMEOUT CLOSED TRUNCATED RESET CLOSED_HERE INVALID NOMEM BUSY ALREADY_TLS UNSUPPORTED LIMIT PLAINTEXT OS REFUSED UNREACHABLE " ..
  "ADDRESS_IN_USE ADDRESS_NOT_AVAILABLE ACCESS DESCRIPTORS MESSAGE_SIZE FILE NO_ENTROPY"):gmatch("%S+") do names[name] = true end

local function judge(what, silly, ok, ...)
  local first, message, name = ...
  if not ok then
    if not silly then t.check(false, what .. " raised " .. tostring(first)) end
    t.check(type(first) == "string", what .. " raised a " .. type(first))
    return
  end
  if (first == nil or first == false) and select("#", ...) > 1 and message ~= nil then
    t.check(type(message) == "string" and message ~= "", what .. ": no message")
    t.check(type(name) == "string" and (names[name] or name:find("^TLS_") or name:find("^CERT_") or name:find("^DNS")), what .. ": name " .. tostring(name))
  end
end

local unpack = table.unpack or unpack
local function one(state, call)
  local s, peer = state[2]()
  if not s then return end
  local what = state[1] .. ": " .. call[1] .. " " .. tostring(call[2])
  local method = s[call[1]]
  if method then
    s:settimeout(LIMIT)
    local before = psocket.now()
    judge(what, call.silly or (state[1] == "UDP" and call[1] == "starttls"), t.pcall(method, s, unpack(call, 2)))
    local took = psocket.now() - before
    t.check(took < 1.5, what .. " took " .. took .. " s")
    if s.isopen then t.pcall(s.isopen, s) end
    if s.recv then judge(what .. ", then recv", false, t.pcall(s.recv, s, { timeout = LIMIT })) end
  end
  s:close()
  if peer then peer:close() end
end

-- A pcall through which a coroutine may yield; where the language's own does not let it, errors of silly calls stay in a
-- coroutine of their own.
t.pcall = t.pcall_yields and pcall or function(f, ...)
  local co = coroutine.create(function(...) return f(...) end)
  local r = { coroutine.resume(co, ...) }
  while coroutine.status(co) ~= "dead" do
    if coroutine.running() then coroutine.yield() end
    r = { coroutine.resume(co) }
  end
  return unpack(r)
end

for _, state in ipairs(states) do
  t.test(state[1] .. " (outside)", function() for _, call in ipairs(calls) do one(state, call) end end)
  t.test(state[1] .. " (home-made)", function() t.homemade(function() for _, call in ipairs(calls) do one(state, call) end end) end)
  t.test(state[1] .. " (scheduler)", function() t.scheduled(function() for _, call in ipairs(calls) do one(state, call) end end) end)
end
t.finish()
