-- copas_test.lua: lua-copas, unchanged, over examples/luasocket.lua: an echo server and 40 clients in one dispatcher.
local socket = require("luasocket").install()
local copas = require "copas"
local psocket = require "psocket"
local running, done = 0, 0

local function serve(handler)
  local server = assert(socket.bind("127.0.0.1", 0))
  copas.addserver(server, function(s) handler(copas.wrap(s)) end)
  return select(2, server:getsockname())
end
local port = serve(function(c)
  while true do
    local line = c:receive()
    if not line then return end
    c:send(line .. "\n")
    copas.sleep(0.001)
  end
end)
for i = 1, 40 do
  running = running + 1
  copas.addthread(function()
    local c = copas.wrap(socket.tcp())
    assert(c:connect("127.0.0.1", port))
    for n = 1, 20 do
      local text = i .. " " .. n .. " " .. ("x"):rep(n * 500)
      assert(c:send(text .. "\n"))
      assert(c:receive() == text, "another line came back")
    end
    c:close()
    done = done + 1
    running = running - 1
  end)
end
local before, cpu = psocket.now(), os.clock()
while running > 0 and psocket.now() - before < 30 do copas.step(1) end
assert(done == 40, done .. " clients came to their end")
-- an idle dispatcher sleeps
before, cpu = psocket.now(), os.clock()
while psocket.now() - before < 0.5 do copas.step(0.5) end
assert(os.clock() - cpu < 0.1, "an idle copas was busy for " .. (os.clock() - cpu) .. " s")
-- LuaSocket's http inside copas
do
  local http = require "socket.http"
  local answered
  local web = serve(function(c)
    repeat local line = c:receive() until not line or line == ""
    c:send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello")
  end)
  copas.addthread(function() answered = { http.request { url = "http://127.0.0.1:" .. web .. "/", create = function() return copas.wrap(socket.tcp()) end } } end)
  before = psocket.now()
  while not answered and psocket.now() - before < 10 do copas.step(1) end
  assert(answered and answered[2] == 200, answered and answered[2])
end
