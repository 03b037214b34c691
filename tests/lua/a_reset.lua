-- A peer's reset is RESET for both directions, whichever met it first: after send had reported it, recv ended as CLOSED.
local t = require "check"
local psocket = t.psocket
local equal, fails = t.equal, t.fails

-- A connection whose peer sends "first half" and resets. A peer of psocket's that closes with more unread data than it reads
-- away before it closes does that. (One that has nothing unread closes cleanly: then recv ends as CLOSED, whatever send met.)
local function pair()
  local a, b = t.tcp()
  assert(a:send(("unread"):rep(50000)))
  assert(b:send("first half"))
  local until_ = psocket.now() + 2
  while not b:peek() and psocket.now() < until_ do end
  return a, b
end

local function suite(title, go, nap)
  t.test("send meets it first" .. title, function()
    go(function()
      local a, b = pair()
      b:close()
      local ok, message, name
      for _ = 1, 100 do
        ok, message, name = a:send("x")
        if not ok then break end
        nap(0.005)
      end
      fails("RESET", ok, message, name)
      equal(a:recv(), "first half")
      fails("RESET", a:recv())
      fails("RESET", a:recv())
      fails("RESET", a:send("x"))
      fails("RESET", a:read(1))
      fails("RESET", a:read_until("\n"))
      equal(a:isopen(), false)
    end)
  end)

  t.test("a writer and a reader" .. title, function()
    local a, b = pair()
    local ended = {}
    go(function()
      for _ = 1, 400 do
        local ok, message, name = a:send(("x"):rep(100000))
        if not ok then
          fails("RESET", ok, message, name)
          ended.writer = true
          break
        end
      end
    end, function()
      equal(a:recv(), "first half")
      fails("RESET", a:recv())
      ended.reader = true
    end, function()
      nap(0.05)
      b:close()
    end)
    equal(ended.writer, true)
    equal(ended.reader, true)
  end)
end

suite(" (scheduler)", t.scheduled, t.nap)
suite(" (home-made)", t.homemade, t.nap)
suite(" (no coroutine)", function(...) if select("#", ...) == 1 then (...)() else t.scheduled(...) end end, function(s)
  local till = psocket.now() + s
  while psocket.now() < till do end
end)
t.finish()
