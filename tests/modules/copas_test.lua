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
  end
end)
for i = 1, 40 do
  running = running + 1
  copas.addthread(function()
    local skt = socket.tcp()
    assert(copas.connect(skt, "127.0.0.1", port))
    local c = copas.wrap(skt)
    for n = 1, 20 do
      local text = i .. " " .. n .. " " .. ("x"):rep(n * 500)
      assert(c:send(text .. "\n"))
      assert(c:receive() == text, "another line came back")
    end
    skt:close()
    done = done + 1
    running = running - 1
  end)
end
local before, cpu = psocket.now(), os.clock()
while running > 0 and psocket.now() - before < 20 do copas.step(1) end
assert(done == 40, done .. " clients came to their end")
-- an idle dispatcher sleeps
before, cpu = psocket.now(), os.clock()
while psocket.now() - before < 0.5 do copas.step(0.5) end
assert(os.clock() - cpu < 0.1, "an idle copas was busy for " .. (os.clock() - cpu) .. " s")
