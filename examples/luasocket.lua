-- luasocket.lua: LuaSocket's and LuaSec's interfaces on psocket, for modules that were written for those. A module to copy.
--
--     require("luasocket").install()          -- from here on, require "socket" and require "ssl" answer these
--     local http = require "socket.http"      -- LuaSocket's own, unchanged
--     print(http.request("https://example.org/"))
--
-- Calls block, in coroutines, too: many modules use those for iterators. After install(sched), with a scheduler of
-- psocket's, they yield in its tasks, but not in a coroutine that a module makes within a task: there all waits. With
-- settimeout(0), and through select, schedulers that were written for LuaSocket work, such as copas.
-- What is different: TLS is verified, whatever `verify` says (a CA of your own: cafile, capath; not at all:
-- insecure_no_verify = true), and needs the name of the server: sni(name), else the host that connect was given. A TLS
-- stream that was cut off is no "closed". setoption knows what psocket can set later. dns resolves through connect.

local psocket = require "psocket"

local socket = { _VERSION = "LuaSocket 3.1.0", BLOCKSIZE = 2048, _SETSIZE = 1024, _DATAGRAMSIZE = 8192 }
local watch = psocket.scheduler() -- runs what goes on in the background
local tasks                       -- the scheduler whose tasks yield
local epoch = os.time() - psocket.now()
local objects = setmetatable({}, { __mode = "v" }) -- by the number that getfd answers
local texts = { TIMEOUT = "timeout", CLOSED = "closed", CLOSED_HERE = "closed", RESET = "closed", REFUSED = "connection refused",
  DNS_NOT_FOUND = "host or service not provided, or not known", ADDRESS_IN_USE = "address already in use", ACCESS = "permission denied" }

local relayed = setmetatable({}, { __mode = "k" }) -- coroutines of ours that may yield, too

-- "main", "task" (a call may yield) or "nested" (it must block, though it is in a coroutine).
local function place()
  local co, main = coroutine.running()
  if not co or main then return "main" end
  return (relayed[co] or tasks and tasks:contains(co)) and "task" or "nested"
end

local function text(message, name) return texts[name] or message end

--- Objects: o.s is psocket's socket or listener, o.buffer from o.at on what has been received

local Tcp, Udp = {}, {}
local metatables = {}
for kind, methods in pairs { ["tcp{master}"] = Tcp, ["tcp{client}"] = Tcp, ["tcp{server}"] = Tcp, ["udp{unconnected}"] = Udp, ["udp{connected}"] = Udp } do
  metatables[kind] = { __index = methods, __tostring = function(o) return kind .. ": " .. o.fd end }
end

local function new(kind, s)
  local o = setmetatable({ s = s, buffer = "", at = 1, received = 0, sent = 0, fd = #objects + 1 }, metatables[kind])
  while objects[o.fd] do o.fd = o.fd + 1 end
  objects[o.fd] = o
  return o
end

function Tcp:settimeout(seconds, mode)
  if seconds and seconds < 0 then seconds = nil end
  self[mode == "t" and "total" or mode == "r" and "total" or "block"] = seconds
  return 1
end
function Tcp:gettimeout() return self.block or -1, self.total or -1 end
function Tcp:getfd() return self.fd end
function Tcp:dirty() return self.at <= #self.buffer or (self.reading and self.reading.done) or false end
function Tcp:getstats() return self.received, self.sent, psocket.now() end
function Tcp:setstats(received, sent) self.received, self.sent = received or 0, sent or 0 return 1 end
function Tcp:getfamily() return "inet" end
function Tcp:setoption(name) -- what psocket does anyway
  if name == "tcp-nodelay" or name == "reuseaddr" then return 1 end
  return nil, "unsupported option " .. tostring(name)
end
function Tcp:close()
  if self.s then self.s:close() end
  return 1
end
local function name_of(method)
  return function(self)
    if not self.s then return nil, "not connected" end
    local ip, port = self.s[method](self.s)
    if not ip then return nil, text(port) end
    return ip, port, ip:find(":", 1, true) and "inet6" or "inet"
  end
end
Tcp.getpeername, Tcp.getsockname = name_of "getpeer", name_of "getlocal"

-- The time that one wait of a call may take: nil none, 0 not at all. deadline is that of the whole call.
local function limit(o, deadline)
  local left = deadline and math.max(deadline - psocket.now(), 0)
  return left and o.block and math.min(left, o.block) or left or o.block
end
local function deadline_of(o) return o.total and psocket.now() + o.total end

-- Runs f in the background, as o[what].
local function start(o, what, f)
  local job = {}
  o[what] = job
  watch:add(function()
    relayed[coroutine.running()] = true
    job.results = { f() }
    job.done = true
  end)
end

-- Its results once it has ended; nil, nil, "TIMEOUT" if that takes longer.
local function finish(o, what, seconds)
  local job, deadline = o[what], seconds and psocket.now() + seconds
  watch:step(0)
  while not job.done do
    local left = deadline and deadline - psocket.now() or 3600
    if left <= 0 then return nil, nil, "TIMEOUT" end
    if place() == "task" then coroutine.yield() elseif place() == "nested" then socket.sleep(0.002) end
    watch:step(place() == "main" and left or 0)
  end
  o[what] = nil
  return job.results[1], job.results[2], job.results[3], job.results[4]
end

-- f(), which waits no longer than `seconds`: here, or as the job o[what] if it must not wait at all (or must, and would yield).
local function run(o, what, seconds, f)
  if not o[what] and seconds ~= 0 and (o.s and o.s.setyield or place() ~= "nested") then return f() end
  if not o[what] then start(o, what, f) end
  return finish(o, what, seconds)
end

-- s, with the limit of what it is asked next.
local function timed(s, seconds)
  if s.setyield then s:setyield(place() == "task") end -- listeners have none
  s:settimeout(seconds and math.max(seconds, 0.001) or 0)
  return s
end

--- TCP

function Tcp:connect(host, port)
  local seconds = limit(self, deadline_of(self))
  if self.s then return nil, "already connected" end
  if host == "*" then host = "localhost" end
  self.host = host
  local s, message, name = run(self, "writing", seconds, function()
    return psocket.connect(host, tonumber(port), { timeout = seconds ~= 0 and seconds or nil })
  end)
  if not s then return nil, text(message, name) end
  self.s = s
  setmetatable(self, metatables["tcp{client}"])
  return 1
end

function Tcp:bind(address, port)
  local where = (address:find(":", 1, true) and "[" .. address .. "]" or address) .. ":" .. port
  local l, message, name = psocket.listen(address == "*" and tonumber(port) or where)
  if not l then return nil, text(message, name) end
  self.s = l
  return 1
end

function Tcp:listen()
  if not self.s then return nil, "not bound" end
  setmetatable(self, metatables["tcp{server}"])
  return 1
end

function Tcp:accept()
  local seconds = limit(self, deadline_of(self))
  if seconds == 0 and not self.reading and not self.s:hasconnection() then return nil, "timeout" end
  local s, message, name = run(self, "reading", seconds, function() return timed(self.s, seconds):accept() end)
  if not s then return nil, text(message, name) end
  return new("tcp{client}", s)
end

-- One more chunk into the buffer, which has been used up.
local function fill(o, seconds)
  if not o.s then return nil, "closed" end
  if seconds == 0 and not o.reading then
    if o.s:peek() == nil and o.s:isopen() then return nil, "timeout" end
    seconds = 0.001
  end
  local data, message, name = run(o, "reading", seconds, function() return timed(o.s, seconds):recv() end)
  if not data then return nil, text(message, name) end
  o.buffer, o.at, o.received = data, 1, o.received + #data
  return true
end

function Tcp:receive(pattern, prefix)
  pattern = pattern or "*l"
  local wanted = tonumber(pattern)
  if not wanted and pattern ~= "*l" and pattern ~= "*a" then error("bad argument #1 to 'receive' (invalid receive pattern)", 2) end
  local parts, deadline, got, ok, err = { prefix }, deadline_of(self), prefix and #prefix or 0, true, nil
  local before = got
  while ok and not (wanted and got >= wanted) do
    local piece, last
    if wanted then piece = self.buffer:sub(self.at, self.at + wanted - got - 1)
    elseif pattern == "*a" then piece = self.buffer:sub(self.at)
    else
      last = self.buffer:find("\n", self.at, true)
      piece = self.buffer:sub(self.at, (last or 0) - 1)
    end
    self.at = self.at + #piece + (last and 1 or 0)
    got = got + #piece
    parts[#parts + 1] = pattern == "*l" and piece:gsub("\r", "") or piece
    if last then return table.concat(parts) end
    if not (wanted and got >= wanted) then ok, err = fill(self, limit(self, deadline)) end
  end
  local all = table.concat(parts)
  if ok or (pattern == "*a" and err == "closed" and got > before) then return all end
  return nil, err, all
end

function Tcp:send(data, from, to)
  if not self.s then return nil, "closed", 0 end
  from, to = from or 1, to or -1
  if from < 0 then from = math.max(#data + from + 1, 1) end
  if to < 0 then to = #data + to + 1 end
  local part = from == 1 and to >= #data and data or data:sub(from, to)
  local seconds = math.max(limit(self, deadline_of(self)) or math.huge, 0.001)
  if seconds == math.huge then seconds = nil end
  local ok, message, name, sent = run(self, "writing", seconds, function() return timed(self.s, seconds):send(part) end)
  sent = ok and #part or sent or 0
  self.sent = self.sent + sent
  if not ok then return nil, text(message, name), from + sent - 1 end
  return from + sent - 1
end

function Tcp:shutdown(how)
  if not self.s then return nil, "not connected" end
  if how ~= "receive" then self.s:shutdown("send") end
  return 1
end

--- UDP

for name in pairs { settimeout = 1, gettimeout = 1, getfd = 1, dirty = 1, close = 1, getpeername = 1, getsockname = 1, getfamily = 1, setoption = 1 } do
  Udp[name] = Tcp[name]
end

local function udp_open(o)
  if not o.s then o.s = assert(psocket.udpserver(0)) end
  return o.s
end

function Udp:setsockname(address, port)
  local s, message, name = psocket.udpserver(address == "*" and tonumber(port) or address .. ":" .. port)
  if not s then return nil, text(message, name) end
  self.s = s
  return 1
end

function Udp:setpeername(host, port)
  if host == "*" then return 1 end
  local s, message, name = psocket.connect(host, tonumber(port), "udp")
  if not s then return nil, text(message, name) end
  self.s = s
  setmetatable(self, metatables["udp{connected}"])
  return 1
end

function Udp:send(data)
  local ok, message, name = self.s:send(data)
  if not ok then return nil, text(message, name) end
  return 1
end

function Udp:sendto(data, ip, port)
  local ok, message, name = udp_open(self):setpeer(ip, tonumber(port))
  if ok then ok, message, name = self.s:send(data) end
  if not ok then return nil, text(message, name) end
  return 1
end

function Udp:receive(size)
  udp_open(self)
  local ok, err = fill(self, limit(self, deadline_of(self)))
  if not ok then return nil, err end
  local data = self.buffer
  self.buffer, self.at = "", 1
  return size and data:sub(1, size) or data
end

function Udp:receivefrom(size)
  local data, err = self:receive(size)
  if not data then return nil, err end
  return data, self.s:getpeer()
end

--- The module

function socket.tcp() return new "tcp{master}" end
function socket.udp() return new "udp{unconnected}" end
socket.tcp4, socket.tcp6, socket.udp4, socket.udp6 = socket.tcp, socket.tcp, socket.udp, socket.udp
function socket.gettime() return psocket.now() + epoch end
function socket.sleep(seconds)
  if place() ~= "nested" then return watch:sleep(math.max(seconds, 0)) end
  local silent, other = psocket.pair()
  timed(silent, seconds):recv()
  other:close()
end
function socket.skip(n, ...) return select(n + 1, ...) end

function socket.connect(host, port)
  local o = socket.tcp()
  local ok, err = o:connect(host, port)
  if not ok then return nil, err end
  return o
end
socket.connect4, socket.connect6 = socket.connect, socket.connect

function socket.bind(address, port)
  local o = socket.tcp()
  local ok, err = o:bind(address, port)
  if not ok then return nil, err end
  o:listen()
  return o
end

-- An error that is a value of these goes no further than to the next protect.
local Exception = { __tostring = function(e) return tostring(e[1]) end }
function socket.newtry(finalizer)
  return function(...)
    if (...) then return ... end
    if finalizer then pcall(finalizer) end
    error(setmetatable({ (select(2, ...)) }, Exception), 0)
  end
end
socket.try = socket.newtry()

-- pcall, through which a task can yield in Lua 5.1, too.
local function protected(f, ...)
  if place() ~= "task" or coroutine.wrap(function() return (pcall(coroutine.yield, true)) end)() == true then return pcall(f, ...) end
  local co = coroutine.create(f)
  relayed[co] = true
  local function step(ok, ...)
    if not ok or coroutine.status(co) == "dead" then return ok, ... end
    return step(coroutine.resume(co, coroutine.yield(...)))
  end
  return step(coroutine.resume(co, ...))
end

local function unwrap(ok, ...)
  if ok then return ... end
  local e = ...
  if getmetatable(e) ~= Exception then error(e, 0) end
  return nil, e[1]
end
function socket.protect(f) return function(...) return unwrap(protected(f, ...)) end end

-- Whether o can be read without waiting; if not, and `wait` says so, it is read in the background.
local function readable(o, wait)
  if o:dirty() or not o.s then return true end
  if o.reading then return o.reading.done end
  local listener = o.s.hasconnection
  if listener and o.s:hasconnection() or not listener and (o.s:peek() ~= nil or not o.s:isopen()) then return true end
  if wait then start(o, "reading", function() return timed(o.s)[listener and "accept" or "recv"](o.s) end) end
end
local function writable(o) return not o.writing or o.writing.done end

function socket.select(readers, writers, seconds)
  local deadline, wait = seconds and seconds >= 0 and psocket.now() + seconds, place() ~= "task" and seconds ~= 0
  while true do
    local r, w = {}, {}
    watch:step(0)
    for from, to in pairs { [readers or {}] = r, [writers or {}] = w } do
      for _, user in ipairs(from) do
        local o = objects[user:getfd()]
        if to == r and readable(o, wait) or to == w and writable(o) then
          to[#to + 1] = user
          to[user] = #to
        end
      end
    end
    local left = deadline and deadline - psocket.now() or 3600
    if #r + #w > 0 then return r, w end
    if left <= 0 then return r, w, "timeout" end
    if place() == "task" then coroutine.yield() else watch:step(left) end
  end
end

socket.dns = {}
function socket.dns.toip(host)
  local s, message, name = psocket.connect(host, 9, "udp") -- which sends nothing
  if not s then return nil, text(message, name) end
  local ip = s:getpeer()
  s:close()
  return ip, { name = host, alias = {}, ip = { ip } }
end
function socket.dns.getaddrinfo(host)
  local ip, err = socket.dns.toip(host)
  if not ip then return nil, err end
  return { { family = ip:find(":", 1, true) and "inet6" or "inet", addr = ip } }
end
function socket.dns.tohostname(ip) return nil, "no name is known for " .. tostring(ip) end
function socket.dns.gethostname() return os.getenv "HOSTNAME" or "localhost" end

--- LuaSec

local ssl = { _VERSION = "1.2.0" }

local function contents(name)
  local f, message = io.open(name, "rb")
  if not f then return nil, message end
  local all = f:read("*a")
  f:close()
  return all
end

-- The settings that LuaSec's parameters mean.
function ssl.newcontext(p)
  local options = { ca_file = p.cafile, ca_dir = p.capath, insecure_no_verify = p.insecure_no_verify,
    alpn = type(p.alpn) == "string" and { p.alpn } or type(p.alpn) == "table" and p.alpn or nil }
  if p.certificate then
    local chain, message = contents(p.certificate)
    local key, why = contents(p.key or p.certificate)
    if not chain or not key then return nil, message or why end
    options.identities = { { chain = chain, private_key = key } }
  end
  local verify = type(p.verify) == "table" and table.concat(p.verify, " ") or p.verify or "none"
  if p.mode == "server" and verify:find("peer", 1, true) then
    options.client_auth = verify:find("fail_if_no_peer_cert", 1, true) and "required" or "optional"
  end
  local settings, why = psocket.tls(options)
  if not settings then return nil, why end
  return { settings = settings }
end

function ssl.wrap(o, p)
  local context, message = p.settings and p or nil, nil
  if not context then context, message = ssl.newcontext(p) end
  if not context then return nil, message end
  o.settings = context.settings
  if o.at <= #o.buffer then o.s:unrecv(o.buffer:sub(o.at)) end
  o.buffer, o.at = "", 1
  return o
end

function Tcp:sni(name) self.host = name end

function Tcp:dohandshake()
  local seconds = limit(self, deadline_of(self))
  if self.s:getside() == "client" and not self.host then return false, "the server's name is needed: sni(name)" end
  local ok, message, name = run(self, "reading", seconds, function()
    if self.s:getside() == "client" then return timed(self.s, seconds ~= 0 and seconds or nil):starttls(self.host, self.settings) end
    return timed(self.s, seconds ~= 0 and seconds or nil):starttls(self.settings)
  end)
  if ok then return true end
  return false, name == "TIMEOUT" and (seconds == 0 and "wantread" or "timeout") or message
end

function Tcp:info(field)
  local info = self.s:tlsinfo()
  local all = { protocol = info.version:gsub("^TLS", "TLS"), cipher = info.suite }
  if field then return all[field] end
  return all
end
function Tcp:getalpn() return self.s:tlsinfo().alpn end
function Tcp:want() return "nothing" end

local https = { PORT = 443, TIMEOUT = 60 }
function https.tcp(p)
  return function()
    local o = socket.tcp()
    local connect = o.connect
    function o:connect(host, port)
      local ok, err = connect(self, host, port)
      if ok then ok, err = ssl.wrap(self, p or {}) end
      if ok then ok, err = self:dohandshake() end
      if not ok then return nil, err end
      return 1
    end
    return o
  end
end
function https.request(...) return require("socket.http").request(...) end

socket.ssl, socket.https = ssl, https

-- Has require answer these for LuaSec's names and for the core of LuaSocket; what LuaSocket's own socket.lua adds to that
-- (sources and sinks for ltn12) is taken from it, if it is installed.
function socket.install(sched)
  tasks = sched
  for name, module in pairs { ["socket.core"] = socket, ssl = ssl, ["ssl.https"] = https } do package.loaded[name] = module end
  package.loaded.socket = nil
  local found, luasocket = pcall(require, "socket")
  package.loaded.socket = found and luasocket or socket
  return package.loaded.socket
end

return socket
