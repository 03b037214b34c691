-- Times at their bounds, accepts that fail for odd reasons, and what hasconnection promises.
local t = require "check"
local P = t.psocket

for _, seconds in ipairs { math.huge, 1e300, 2147483.647, 2147483.646, 2147484, 4294967.296, 1e7 } do
  t.test(("a limit of %s seconds is not over at once"):format(seconds), function()
    for i = 1, 8 do
      local a, b = P.pair(i % 2 == 0 and { timeout = seconds } or nil)
      local s, got, why = P.scheduler(), nil, nil
      local till = P.now() + 0.0005 * i
      repeat until P.now() > till -- odd and even milliseconds
      if i % 3 == 0 then a:settimeout(seconds) end
      s:add(function() got, why = a:recv { timeout = seconds } end)
      s:add(function() s:sleep(0.002) b:send "x" end)
      s:run()
      if not t.equal(got, "x", why) then return end
    end
  end)
end

t.test("sleep and step do not spin at their end", function()
  local worst = 0
  for i = 1, 120 do
    local s, n, done = P.scheduler(), 0, false
    s:add(function() s:sleep(0.001 * (1 + i % 3)) done = true end)
    while not done do
      s:step(0.05)
      n = n + 1
    end
    if n > worst then worst = n end
  end
  t.check(worst <= 5, worst .. " turns for one sleep")
end)

t.test("accept after hasconnection does not yield, whatever was done in between", function()
  for n = 28, 70 do
    local l = P.listen("127.0.0.1:0")
    local _, port = l:getlocal()
    local a, b = P.pair()
    a:send(("x"):rep(200))
    local c = P.connect("127.0.0.1", port)
    while not l:hasconnection() do end
    local s, yielded = P.scheduler(), nil
    s:add(function()
      for _ = 1, n do b:read(1) end -- these may yield
      if not l:hasconnection() then return end
      for _ = 1, n % 33 do a:send "y" end
      yielded = true
      t.check(l:accept())
      yielded = false
    end)
    local turns = 0
    while s:step(0) do
      turns = turns + 1
      if yielded then t.check(false, ("accept has yielded after %d operations"):format(n)) return end
    end
    c:close()
    l:close()
  end
end)

t.test("a list of certificates is no server's name, also if a server has used it", function()
  local chain, key, ca = t.pem "ec.pem", t.pem "ec.key", t.pem "ca.pem"
  if not chain then return end
  local certs = { { chain = chain, private_key = key } }
  local a, b = P.pair { timeout = 2 }
  t.scheduled(function() t.check(a:starttls("localhost", { ca = ca })) end, function() t.check(b:starttls(certs)) end)
  local c = P.pair { timeout = 0.05 }
  t.raises("string expected", c.starttls, c, certs)
  t.check(c:isopen())
end)

t.test("bind ends a socket that was wrapped, too", function()
  local s, kept = P.scheduler(), nil
  local l = P.bind(s, "127.0.0.1:0", function(c) kept = P.wrap(c) kept:send "x" end, { timeout = 1 })
  local _, port = l:getlocal()
  local why
  s:add(function()
    local c = P.connect("127.0.0.1", port, { timeout = 0.5 })
    c:recv()
    why = select(3, c:recv())
    c:close()
    l:close()
  end)
  s:run()
  t.equal(why, "CLOSED")
end)

t.finish()
