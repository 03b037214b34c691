-- Deadlines, slow peers, and nothing lost.
local t = require "check"
local psocket = t.psocket
local check, equal, fails = t.check, t.equal, t.fails

local function about(before, seconds)
  local took = psocket.now() - before
  return check(took >= seconds - 0.01 and took < seconds + 1.5, "took " .. took .. " s instead of " .. seconds)
end

local function suite(title, go, nap)
  t.test("recv times out and can be retried" .. title, function()
    local a, b = t.tcp()
    go(function()
      local before = psocket.now()
      b:settimeout(0.05)
      local data, message, name = b:recv()
      equal(data, nil)
      equal(message, "timed out")
      equal(name, "TIMEOUT")
      about(before, 0.05)
      fails("TIMEOUT", b:recv())
      before = psocket.now()
      fails("TIMEOUT", b:recv { timeout = 0.1 })
      about(before, 0.1)
      equal(b:isopen(), true)
      a:send("late")
      equal(b:recv(), "late")
      fails("TIMEOUT", b:recv())
      b:settimeout()
      a:send("again")
      equal(b:recv(), "again")
    end)
  end)

  t.test("a read that times out keeps what has come" .. title, function()
    local a, b = t.tcp()
    go(function()
      a:send("half")
      fails("TIMEOUT", b:read(8, { timeout = 0.05 }))
      fails("TIMEOUT", b:read_until("\n", { timeout = 0.05 }))
      fails("TIMEOUT", b:read_until("\n", 100, { timeout = 0.02 }))
      a:send("full\n")
      equal(b:read(8), "halffull")
      equal(b:read_until("\n"), "\n")
    end)
  end)

  t.test("accept times out" .. title, function()
    local l = assert(psocket.listen("127.0.0.1:0"))
    go(function()
      local before = psocket.now()
      fails("TIMEOUT", l:accept { timeout = 0.05 })
      about(before, 0.05)
      l:settimeout(0.03)
      fails("TIMEOUT", l:accept())
      local c = assert(psocket.connect("127.0.0.1", (select(2, l:getlocal()))))
      check(l:accept())
      c:close()
    end)
  end)

  t.test("accepted sockets inherit the listener's limits" .. title, function()
    local _, s = t.tcp { timeout = 0.05 }
    go(function() fails("TIMEOUT", s:recv()) end)
  end)

  t.test("send to a peer that does not read times out, and says how much has gone" .. title, function()
    local a, b = t.tcp()
    go(function()
      local data = ("0123456789"):rep(2000000)
      local ok, message, name, sent = a:send(data, { timeout = 0.1 })
      equal(ok, nil)
      equal(message, "timed out")
      equal(name, "TIMEOUT")
      check(sent > 0 and sent < #data, sent)
      a:close()
      local got = 0
      while true do
        local chunk, _, why = b:recv()
        if not chunk then equal(why, "CLOSED") break end
        equal(chunk, data:sub(got + 1, got + #chunk))
        got = got + #chunk
      end
      equal(got, sent)
    end)
  end)
end

suite("", function(f) f() end)
suite(" (scheduler)", t.scheduled)
suite(" (home-made)", t.homemade)

t.modes("a limit for the whole passes though there is progress", function(go, nap)
  local a, b = psocket.pair()
  go(function()
    for _ = 1, 8 do nap(0.03) a:send("x") end
  end, function()
    local before = psocket.now()
    fails("TIMEOUT", b:read(8, { timeout = 0.1 }))
    about(before, 0.1)
    equal(b:read(8), "xxxxxxxx")
  end)
end)

t.modes("the longest limits", function(go)
  local a, b = psocket.pair()
  go(function()
    b:settimeout(math.huge, 1e9)
    a:send("x")
    equal(b:recv(), "x")
    b:settimeout(0, 0)
    a:send("y")
    equal(b:recv(), "y")
  end)
end)

t.modes("a large send to a late and slow reader arrives whole", function(go, nap)
  local a, b = t.tcp()
  local size = 8 * 1024 * 1024
  local block = {}
  for i = 1, 64 do block[i] = ("%07d\n"):format(i * 7919) end
  block = table.concat(block)
  local data, got, same = block:rep(size / #block), 0, true
  go(function()
    equal(a:send(data), true)
    a:close()
  end, function()
    nap(0.1)
    while true do
      local chunk, _, name = b:recv()
      if not chunk then equal(name, "CLOSED") break end
      same = same and chunk == data:sub(got + 1, got + #chunk)
      got = got + #chunk
    end
  end)
  equal(got, #data)
  equal(same, true)
end)

t.modes("connect to an address that does not answer times out", function(go)
  -- a listener whose queue is full ignores further connections
  local l = assert(psocket.listen("127.0.0.1:0", { backlog = 1 }))
  local _, port = l:getlocal()
  local kept, timed_out = {}, false
  go(function()
    for i = 1, 20 do
      local before = psocket.now()
      local s, message, name = psocket.connect("127.0.0.1", port, { timeout = 0.2 })
      kept[i] = s
      if not s then
        equal(name, "TIMEOUT")
        check(message:find("127.0.0.1"), message)
        about(before, 0.2)
        timed_out = true
        break
      end
    end
  end)
  equal(timed_out, true)
end)

t.test("a resolver that takes its time leaves others running", function()
  local sched = psocket.scheduler()
  local l = assert(psocket.listen("127.0.0.1:0"))
  local _, port = l:getlocal()
  local ticks, connected = 0, nil
  sched:add(function()
    connected = assert(psocket.connect("slow.test", port, { resolve = function()
      sched:sleep(0.3)
      return "127.0.0.1"
    end }))
  end)
  sched:add(function() while not connected do ticks = ticks + 1 sched:sleep(0.01) end end)
  sched:run()
  check(ticks >= 3, ticks) -- thirty on an idle machine
end)

t.test("what a listener's limit has become holds for the sockets it accepts", function()
  local l = assert(psocket.listen("127.0.0.1:0"))
  local port = select(2, l:getlocal())
  l:settimeout(0.1)
  for _, operation in ipairs { "recv", "send", "starttls" } do
    local c, s = assert(psocket.connect("127.0.0.1", port)), assert(l:accept())
    local sched, before, done = psocket.scheduler(), psocket.now(), false
    sched:add(function()
      local _, _, name = s[operation](s, operation == "starttls" and { { chain = t.pem "ec.pem", private_key = t.pem "ec.key" } } or operation == "send" and ("x"):rep(2e7) or nil)
      equal(name, "TIMEOUT", operation)
      done = true
    end)
    while sched:step(0.1) and psocket.now() < before + 2 do end
    check(done, operation)
    s:close()
    c:close()
  end
end)

t.test("a thousand limits at once", function()
  local sched = psocket.scheduler()
  local n = 0
  for i = 1, 1000 do
    local a, b = psocket.pair()
    sched:add(function()
      fails("TIMEOUT", b:recv { timeout = 0.02 + (i % 10) / 100 })
      n = n + 1
      a:close()
    end)
  end
  local before = psocket.now()
  sched:run()
  about(before, 0.11)
  equal(n, 1000)
end)

t.test("geterror agrees with what a call has answered", function()
  local a, b = psocket.pair()
  local function agrees(first, _, name)
    equal(first, nil)
    equal(select(2, a:geterror()), name)
    return name
  end
  equal(agrees(a:recv { timeout = 0.01 }), "TIMEOUT")
  fails("UNSUPPORTED", a:setpeer("127.0.0.1", 1))
  equal(agrees(a:read(5, { timeout = 0.01 })), "TIMEOUT")
  fails("UNSUPPORTED", a:setpeer("127.0.0.1", 1))
  equal(agrees(a:read_until("\n", { timeout = 0.01 })), "TIMEOUT")
  local sched = psocket.scheduler()
  sched:add(function() a:recv() end)
  sched:add(function() equal(agrees(a:recv()), "BUSY") end)
  b:close()
  sched:run()
  equal(agrees(a:recv()), "CLOSED")
  a:close()
  equal(agrees(a:recv()), "CLOSED_HERE")
end)

t.finish()
