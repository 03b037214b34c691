-- Datagrams and Unix-domain sockets.
local t = require "check"
local psocket = t.psocket
local check, equal, fails, raises = t.check, t.equal, t.fails, t.raises

for _, case in ipairs { { "127.0.0.1", "127.0.0.1:0" }, { "::1", "[::1]:0" }, { "localhost", 0 }, { "::1", 0 } } do
  local host, address = case[1], case[2]
  local can = psocket.udpserver(address)
  local name = "ping and pong with " .. host .. " and " .. address
  if not can then
    t.skip(name, "no such address here")
  else
    t.modes(name, function(go) -- as in Pluto's tests
      local serv = assert(psocket.udpserver(address))
      local _, port = serv:getlocal()
      equal(serv:isudp(), true)
      equal(serv:getside(), "server")
      go(function()
        equal(serv:recv(), "ping")
        equal(serv:send("pong"), true)
      end, function()
        local sock = assert(psocket.connect(host, port, "udp"))
        equal(sock:isudp(), true)
        equal(sock:getside(), "client")
        equal(select(2, sock:getpeer()), port)
        equal(sock:send("ping"), true)
        equal(sock:recv(), "pong")
      end)
    end)
  end
end

t.test("blocking, by options table; one datagram is one chunk", function()
  local serv = assert(psocket.udpserver("127.0.0.1:0"))
  local _, port = serv:getlocal()
  local a = assert(psocket.connect("127.0.0.1", port, { udp = true }))
  a:send("one")
  a:send("two")
  equal(serv:recv(), "one")
  equal(serv:recv(), "two")
  equal(select("#", serv:peek()), 0)
  equal(select(2, serv:getpeer()), (select(2, a:getlocal())))
  serv:send("back")
  equal(a:recv(), "back")
  check(tostring(a):find("UDP"), tostring(a))
  fails("TIMEOUT", serv:recv { timeout = 0.02 })
end)

t.test("datagrams up to 65507 bytes", function()
  local serv = assert(psocket.udpserver("127.0.0.1:0"))
  local a = assert(psocket.connect("127.0.0.1", (select(2, serv:getlocal())), "udp"))
  local big = ("0123456"):rep(9358) .. "!"
  equal(#big, 65507)
  equal(a:send(big), true)
  equal(serv:recv(), big)
  fails("MESSAGE_SIZE", a:send(big .. "x"))
end)

t.test("setpeer and getpeer of the last datagram", function()
  local serv = assert(psocket.udpserver("127.0.0.1:0"))
  local _, port = serv:getlocal()
  local a = assert(psocket.connect("127.0.0.1", port, "udp"))
  local b = assert(psocket.connect("127.0.0.1", port, "udp"))
  a:send("from a")
  equal(serv:recv(), "from a")
  b:send("from b")
  equal(serv:recv(), "from b")
  local ip, from = serv:getpeer()
  equal(ip, "127.0.0.1")
  equal(from, (select(2, b:getlocal())))
  equal(serv:setpeer("127.0.0.1", (select(2, a:getlocal()))), true)
  serv:send("to a")
  equal(a:recv(), "to a")
  fails("INVALID", serv:setpeer("nonsense", 1))
  fails("INVALID", serv:setpeer("127.0.0.1", 0))
  raises("number expected", serv.setpeer, serv, "127.0.0.1")
end)

t.test("TLS is refused", function()
  local a = assert(psocket.connect("127.0.0.1", 9, "udp"))
  local ok, message, name = a:starttls("localhost")
  equal(ok, false)
  equal(name, "UNSUPPORTED")
  check(message)
end)

t.modes("Unix-domain sockets", function(go)
  local path = os.tmpname()
  os.remove(path)
  local l, _, name = psocket.listen("unix:" .. path)
  if not l then
    equal(name, "UNSUPPORTED")
    return
  end
  local got
  go(function()
    local s = assert(l:accept())
    s:send((s:recv():upper()))
  end, function()
    local c = assert(psocket.connect("unix:" .. path))
    check(tostring(c):find("unix:", 1, true), tostring(c))
    c:send("path")
    got = c:recv()
  end)
  equal(got, "PATH")
  equal(l:getlocal(), path)
  l:close()
  fails("INVALID", psocket.listen("unix:"))
  fails("INVALID", psocket.connect("unix:" .. path, 80))
  check(select(3, psocket.connect("unix:" .. path)))
end)

t.finish()
