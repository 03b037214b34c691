-- luasocket.lua: LuaSocket's and LuaSec's interfaces on psocket, for modules that were written for those. A module to copy.
--
--     require("luasocket").install()          -- from here on, require "socket" and require "ssl" answer these
--     local http = require "socket.http"      -- LuaSocket's own, unchanged
--     print(http.request("https://example.org/"))
--
-- After install(sched), with a scheduler of psocket's, calls yield in its tasks. In other coroutines they block, as many
-- modules use those for iterators. With settimeout(0) and select, schedulers written for LuaSocket work, such as copas.
-- What is different: TLS is verified, whatever `verify` says (a CA of your own: cafile, capath; not at all:
-- insecure_no_verify = true), and needs the server's name: sni(name), else the host that connect was given. A TLS stream
-- that was cut off is no "closed". dns resolves through connect. accept yields in every coroutine.

local psocket = require "psocket"
local now, unpack = psocket.now, table.unpack or unpack
local function pack(...) return { n = select("#", ...), ... } end

local socket = { _VERSION = "LuaSocket 3.1.0", BLOCKSIZE = 2048, dns = {} }
local background = psocket.scheduler()             -- for what goes on while nobody waits for it
local tasks                                        -- the scheduler whose tasks yield
local relayed = setmetatable({}, { __mode = "k" }) -- coroutines within such tasks whose yields are handed on
local epoch = os.time() - now()
local texts = { TIMEOUT = "timeout", CLOSED = "closed", CLOSED_HERE = "closed", RESET = "closed", REFUSED = "connection refused",
  DNS_NOT_FOUND = "host or service not provided, or not known", ADDRESS_IN_USE = "address already in use", ACCESS = "permission denied" }

local function yields() -- whether calls may, here
  local co = coroutine.running()
  return co and (relayed[co] or background:contains(co) or tasks and tasks:contains(co)) or false
end

-- psocket's answer as LuaSocket's.
local function answer(ok, message, name, ...)
  if ok then return ok, message, name, ... end
  return nil, texts[name] or message, ...
end

--- Objects: o.s is psocket's socket or listener, o.early what select has taken from it, o.block and o.total the limits

local Tcp, Udp = {}, {}
local kinds = { [Tcp] = "tcp{client}", [Udp] = "udp{connected}" }
for methods, name in pairs(kinds) do kinds[methods] = { __index = methods, __tostring = function() return name end } end
local function new(methods, s) return setmetatable({ s = s, received = 0, sent = 0 }, kinds[methods]) end

-- Gives the object its socket, if there is one.
local function take(o, s, ...)
  o.s = s or nil
  return answer(s and 1, ...)
end

function Tcp:settimeout(seconds, mode)
  self[mode and mode ~= "b" and "total" or "block"] = seconds and seconds >= 0 and seconds or nil
  return 1
end
function Tcp:setoption() return 1 end -- psocket sets by itself what matters
function Tcp:getfd() return self.s and self.s:getfd() or -1 end
function Tcp:getstats() return self.received, self.sent, now() end
function Tcp:close()
  if self.s then self.s:close() end
  self.s = false
  return 1
end
for name, method in pairs { getpeername = "getpeer", getsockname = "getlocal" } do
  Tcp[name] = function(self)
    if not self.s then return nil, "closed" end
    local ip, port, code = self.s[method](self.s)
    return answer(ip, port, ip and (ip:find(":", 1, true) and "inet6" or "inet") or code)
  end
end

-- Whether there is something to take: data, a connection, an end.
local function ready(o)
  local s = o.s
  if not s or o.early then return true end
  if s.hasconnection then return s:hasconnection() end
  return s:peek() ~= nil or not s:isopen()
end
function Tcp:dirty() return self.s and ready(self) or false end

-- How long a call may wait, nil for ever; `whole` is when its time is over. With settimeout(0) jobs go on for ever.
local function limit(o, whole)
  local left = math.min(o.block or math.huge, whole and whole - now() or math.huge)
  return left ~= math.huge and o.block ~= 0 and math.max(left, 0.001) or nil
end
local function whole_of(o) return o.total and now() + o.total end

-- What psocket's method answers in time; a wait begins anew when something has arrived.
local function call(o, method, ...)
  local s, whole, results = o.s, whole_of(o), o.early
  if not s then return nil, "closed" end
  o.early = nil
  if s.setyield then s:setyield(yields()) end -- listeners have none
  while not results do
    local before = s.pending and s:pending()
    s:settimeout(o.block == 0 and 0.001 or limit(o, whole))
    results = pack(s[method](s, ...))
    if results[3] == "TIMEOUT" and before and s:pending() > before and o.block ~= 0 and not (whole and now() >= whole) then results = nil end
  end
  return answer(unpack(results, 1, results.n))
end

-- f(); with settimeout(0) in the background, until it is asked again.
local function try(o, f)
  if o.block ~= 0 and not o.job then return f() end
  local job = o.job or {}
  if not o.job then
    o.job = job
    background:add(function() job.results = pack(f()) end)
  end
  background:step(0)
  if not job.results then return nil, nil, "TIMEOUT" end
  o.job = nil
  return unpack(job.results, 1, job.results.n)
end

--- TCP

-- An address with a port, or any, as psocket wants it.
local function place(address, port)
  if address == "*" then return tonumber(port) end
  return (address:find(":", 1, true) and "[" .. address .. "]" or address) .. ":" .. port
end

function Tcp:connect(host, port)
  if self.s then return nil, "already connected" end
  self.host = host == "*" and "localhost" or host
  local seconds = limit(self, whole_of(self))
  return take(self, try(self, function() return psocket.connect(self.host, tonumber(port), { timeout = seconds, yield = yields() }) end))
end
function Tcp:bind(address, port) return take(self, psocket.listen(place(address, port))) end
function Tcp:listen() return 1 end
function Tcp:accept()
  if self.block == 0 and not ready(self) then return nil, "timeout" end
  local s, err = call(self, "accept")
  return s and new(Tcp, s), err
end

function Tcp:receive(pattern, prefix)
  local wanted, all, data, err = tonumber(pattern), pattern == "*a", nil, "timeout"
  if pattern and not wanted and not all and pattern ~= "*l" then error("bad argument #1 to 'receive' (invalid receive pattern)", 2) end
  prefix = prefix or ""
  if wanted and wanted <= #prefix then return prefix end
  if self.block ~= 0 or ready(self) then
    if wanted or all then data, err = call(self, "read", wanted and wanted - #prefix or 2^29)
    else data, err = call(self, "read_until", "\n", 2^30) end
  end
  local left = not data and self.s and self.s:pending() or 0 -- what arrived of it
  data = data or left > 0 and self.s:read(left) or ""
  self.received = self.received + #data
  if all and not err then err = "more than 512 MB in one piece"
  elseif all and err == "closed" and data ~= "" then err = nil end
  if not wanted and not all then data = data:gsub("[\r\n]", "") end
  if not err then return prefix .. data end
  return nil, err, prefix .. data
end

function Tcp:send(data, from, to)
  data, from, to = data .. "", from or 1, to or -1 -- a number is data, too
  from = math.max(from < 0 and #data + from + 1 or from, 1)
  local part = data:sub(from, to)
  local ok, err, sent = call(self, "send", part)
  sent = ok and #part or sent or 0
  self.sent = self.sent + sent
  if ok then return from + sent - 1 end
  return nil, err, from + sent - 1
end

function Tcp:shutdown(how)
  if how ~= "receive" and self.s then self.s:shutdown("send") end
  return 1
end

--- UDP

for _, name in ipairs { "settimeout", "setoption", "getfd", "getpeername", "getsockname", "dirty", "close" } do Udp[name] = Tcp[name] end
function Udp:setsockname(address, port) return take(self, psocket.udpserver(place(address, port))) end
function Udp:setpeername(host, port) return take(self, psocket.connect(host, tonumber(port), { udp = true, yield = yields() })) end
function Udp:send(data)
  local ok, err = call(self, "send", data)
  return ok and #data, err
end
local function opened(o) -- its socket; not one that was closed
  if o.s == nil then o.s = assert(psocket.udpserver(0)) end
  return o.s
end
function Udp:sendto(data, ip, port)
  if not opened(self) then return nil, "closed" end
  local ok, message, name = self.s:setpeer(ip, tonumber(port))
  if not ok then return answer(nil, message, name) end
  return self:send(data)
end
function Udp:receive(size)
  if opened(self) and self.block == 0 and not ready(self) then return nil, "timeout" end
  local data, err = call(self, "recv")
  return data and data:sub(1, size or -1), err
end
function Udp:receivefrom(size)
  local data, err = self:receive(size)
  if not data then return nil, err end
  return data, self:getpeername()
end

--- The module

function socket.tcp() return new(Tcp) end
function socket.udp() return new(Udp) end
socket.tcp4, socket.tcp6, socket.udp4, socket.udp6 = socket.tcp, socket.tcp, socket.udp, socket.udp
function socket.gettime() return now() + epoch end
function socket.skip(n, ...) return select(n + 1, ...) end
function socket.sleep(seconds) -- nothing ever comes from that peer
  local silent, peer = psocket.pair { yield = yields() }
  silent:recv { timeout = math.max(seconds, 0.001) }
  silent:close()
  peer:close()
end

for _, method in ipairs { "connect", "bind" } do
  socket[method] = function(address, port)
    local o = new(Tcp)
    local ok, err = o[method](o, address, port)
    return ok and o, err
  end
end
socket.connect4, socket.connect6 = socket.connect, socket.connect

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

-- What a protected function leaves. Lua 5.1 cannot yield from pcall: there it runs in a coroutine, `co`.
local function settle(co, ok, ...)
  if co and coroutine.status(co) == "suspended" then return settle(co, coroutine.resume(co, coroutine.yield(...))) end
  if ok then return ... end
  if getmetatable((...)) ~= Exception then error((...), 0) end
  return nil, (...)[1]
end
local needs_coroutine = _VERSION == "Lua 5.1" and not rawget(_G, "jit")
function socket.protect(f)
  return function(...)
    if not needs_coroutine or not yields() then return settle(nil, pcall(f, ...)) end
    local co = coroutine.create(f)
    relayed[co] = true
    return settle(co, coroutine.resume(co, ...))
  end
end

local function those(list, fit)
  local found = {}
  for _, o in ipairs(list or {}) do
    if fit(o) then
      found[#found + 1] = o
      found[o] = #found
    end
  end
  return found
end
local function writable(o) return not o.job or o.job.results ~= nil end

function socket.select(readers, writers, seconds)
  local deadline = seconds and seconds >= 0 and now() + seconds or math.huge
  local sched, hints, waiters = yields() and tasks or background, psocket.queue(), nil
  while true do
    background:step(0)
    local r, w, left = those(readers, ready), those(writers, writable), deadline - now()
    if #r + #w > 0 or left <= 0 then
      for _, waiter in ipairs(waiters or {}) do sched:remove(waiter) end
      return r, w, #r + #w == 0 and "timeout" or nil
    end
    if not waiters then
      waiters = {}
      for _, o in ipairs(readers or {}) do -- takes what comes, and hints
        waiters[#waiters + 1] = sched:add(function()
          if o.s.setyield then o.s:setyield(true) end
          o.s:settimeout(nil)
          local results = pack(o.s[o.s.hasconnection and "accept" or "recv"](o.s))
          if results[1] and o.receive == Tcp.receive and o.s.unrecv then o.s:unrecv(results[1]) else o.early = results end
          hints:push(o)
        end)
      end
    end
    if sched == tasks then hints:pop { timeout = left } else background:step(math.min(left, 3600)) end
  end
end

function socket.dns.toip(host)
  local function find(from) return psocket.connect(host, 9, { udp = true, yield = yields(), local_address = from }) end -- sends nothing
  local s, message, name = find "0.0.0.0" -- IPv4 first, as LuaSocket does
  if not s then s, message, name = find() end
  if not s then return answer(nil, message, name) end
  local ip = s:getpeer()
  s:close()
  return ip, { name = host, alias = {}, ip = { ip } }
end
function socket.dns.getaddrinfo(host)
  local ip, err = socket.dns.toip(host)
  return ip and { { family = ip:find(":", 1, true) and "inet6" or "inet", addr = ip } }, err
end
function socket.dns.gethostname() return os.getenv "HOSTNAME" or "localhost" end

--- LuaSec

local ssl = { _VERSION = "1.2.0" }
function ssl.newcontext(p) -- the settings that LuaSec's parameters mean
  local verify = type(p.verify) == "table" and table.concat(p.verify, " ") or p.verify or ""
  local asks = p.mode == "server" and verify:find("peer", 1, true)
  local settings, message = psocket.tls {
    ca_file = p.cafile, ca_dir = p.capath, insecure_no_verify = p.insecure_no_verify,
    alpn = type(p.alpn) == "string" and { p.alpn } or type(p.alpn) == "table" and p.alpn or nil,
    identities = p.certificate and { { cert_file = p.certificate, key_file = p.key or p.certificate } } or nil,
    client_auth = asks and (verify:find("fail_if_no_peer_cert", 1, true) and "required" or "optional") or nil }
  return settings and { settings = settings }, message
end
function ssl.wrap(o, p)
  local context, message = p, nil
  if not p.settings then context, message = ssl.newcontext(p) end
  if not context then return nil, message end
  o.settings = context.settings
  return o
end

function Tcp:sni(name) self.host = name end
function Tcp:dohandshake()
  local client = self.s:getside() == "client"
  if client and not self.host then return false, "the server's name is needed: sni(name)" end
  local ok, message, name = try(self, function()
    self.s:setyield(yields())
    self.s:settimeout(limit(self, whole_of(self)))
    if client then return self.s:starttls(self.host, self.settings) end
    return self.s:starttls(self.settings)
  end)
  if ok then return true end
  return false, name == "TIMEOUT" and (self.block == 0 and "wantread" or "timeout") or message
end
function Tcp:getalpn() return self.s:tlsinfo().alpn end
function Tcp:info(field)
  local info = self.s:tlsinfo()
  local all = { protocol = info.version, cipher = info.suite }
  if field then return all[field] end
  return all
end

local https = { PORT = 443, TIMEOUT = 60 }
function https.tcp(p)
  return function()
    local o = new(Tcp)
    function o:connect(host, port)
      local ok, err = Tcp.connect(self, host, port)
      if ok then ok, err = ssl.wrap(self, p or {}) end
      if ok then ok, err = self:dohandshake() end
      return ok and 1 or nil, err
    end
    return o
  end
end
function https.request(...) return require("socket.http").request(...) end

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
