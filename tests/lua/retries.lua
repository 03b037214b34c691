-- Operations that are tried again after a wait: their arguments, wakes and finalizers in between.
local t = require "check"
local psocket = t.psocket
local check, equal, fails = t.check, t.equal, t.fails
local yield = coroutine.yield

local ca, chain, key = t.pem("ca.pem"), t.pem("ec.pem"), t.pem("ec.key")
local tls = ca and select(3, psocket.tls {}) ~= "UNSUPPORTED"

if tls then
  t.modes("shutdown waits for what a send has left", function(go)
    local a, b = psocket.pair()
    local certs, got, first, second = { { chain = chain, private_key = key } }, 0, nil, nil
    local settings = psocket.tls { ca = ca }
    go(function() b:starttls(certs) end, function() equal(a:starttls("localhost", settings), true) end)
    go(function()
      first = select(3, a:send(("x"):rep(300000), { timeout = 0.05 }))
      second = a:shutdown("send")
    end, function()
      while not first do yield() end
      for _ = 1, 3 do yield() end -- shutdown has begun
      while true do
        local data, _, why = b:recv()
        if not data then equal(why, "CLOSED") break end
        got = got + #data
      end
    end)
    equal(first, "TIMEOUT")
    equal(second, true)
    check(got > 0 and got < 300000)
  end)
else
  t.skip("shutdown waits for what a send has left", "no TLS or no certificates")
end

-- A task has done its share of a turn just when it wants the few bytes that were too few for a read before.
for _, op in ipairs { "recv", "read", "read_until" } do
  t.test(op .. " after a read that timed out, at the end of a task's share", function()
    local before = psocket.now()
    for n = 28, 34 do
      local a, b = t.tcp()
      local x, y = psocket.pair()
      local sched, got, why, unused = psocket.scheduler(), nil, nil, nil
      a:send("few\n")
      sched:add(function()
        fails("TIMEOUT", b:read(100, { timeout = 0.02 }))
        for i = 1, n do x:send("z" .. i) end
        if op == "recv" then got, unused, why = b:recv { timeout = 2 }
        elseif op == "read" then got, unused, why = b:read(4, { timeout = 2 })
        else got, unused, why = b:read_until("\n", { timeout = 2 }) end
      end)
      while sched:step(0.1) do end
      equal(got, "few\n", why)
      y:close()
    end
    check(psocket.now() - before < 1.9, "it took the whole time limit")
  end)
end

-- Calls op while finalizers, which run as often as they may, call meddle until it answers true; returns op's result and
-- whether it did.
local function meddled(op, meddle)
  local calm, on, done = t.eager(), true, false
  local function again()
    if not on or done then return end
    done = meddle()
    t.finalizer(again)
  end
  t.finalizer(again)
  local result = op()
  on = false
  calm()
  return result, done
end

for _, size in ipairs { 1000, 50000 } do
  t.test("a finalizer takes the chunk of " .. size .. " bytes that is being read", function()
    for i = 1, 100 do
      local a, b = psocket.pair { recv_limit = 1000000 }
      local reading, theirs = false, nil
      b:unrecv(("2"):rep(size + i))
      b:unrecv(("1"):rep(size + i))
      local mine = meddled(function()
        reading = true
        local s = b:recv()
        reading = false
        return s
      end, function()
        if not reading then return false end
        local ok, s = pcall(b.recv, b)
        theirs = ok and s or nil
        return true
      end)
      check(mine ~= theirs, "a chunk came twice")
      equal(#mine + #(theirs or "") + b:pending(), 2 * (size + i))
      check(a)
    end
  end)
end

t.test("a finalizer resumes who waits for the socket that is being read", function()
  local refused, let = 0, 0
  for i = 1, 50 do
    local a, b = psocket.pair { recv_limit = 1000000 }
    b:settimeout(0.05)
    local sched = psocket.scheduler()
    local co = sched:add(function() b:recv { timeout = 60 } end)
    sched:remove(co) -- so others may read, but it can be resumed
    local want, reading, ok, message = ("x"):rep(50000 + i), false, nil, nil
    b:unrecv(want)
    local mine = meddled(function()
      local garbage
      for j = 1, i % 8 do garbage = ("garbage"):rep(1000 * i + j) end -- the collector is at another point each time
      reading = true
      local s = b:read(#want)
      reading = false
      return s, garbage
    end, function()
      if reading then ok, message = coroutine.resume(co) end
      return reading
    end)
    if ok == false and tostring(message):find("finalizer", 1, true) then refused = refused + 1 end
    if ok and mine == want then let = let + 1 end -- else it came before the read began, and took the bytes
    check(a and (ok or mine == want))
  end
  local after = t.version() >= "5.4" and t.version() ~= "jit" -- there finalizers run when the bytes are copied
  check(after or let == 0, "it was let in")
  check((after and let or refused) > 0 or t.version() == "5.2", "no finalizer ran in between") -- 5.2 collects before it calls a C function
end)

-- What a task has read to the end is looked at again by whoever cannot wait for its scheduler's next turn.
for _, how in ipairs { "recv", "read", "read_until" } do
  t.test(how .. " right after the socket was read to its end", function()
    local function take(s) return s[how](s, how == "read" and 2 or how == "read_until" and "!" or nil, { timeout = 1 }) end
    if how == "recv" then function take(s) return s:recv { timeout = 1 } end end
    local a, b = t.tcp()
    local sched, got = psocket.scheduler(), {}
    sched:add(function()
      got[1] = take(b) -- it waits, so that b is in the scheduler's poller
      a:send("2!")
      b:setyield(false)
      got[2] = take(b) -- as what is called from C does: it blocks
      b:setyield(true)
      a:send("3!")
      coroutine.wrap(function() got[3] = take(b) end)() -- no task
      got[4] = "."
    end)
    sched:step(0)
    a:send("1!")
    while sched:step(1) do end
    a:send("5!")
    got[5] = take(b) -- outside
    equal(table.concat(got, "", 1, 5), "1!2!3!.5!")
  end)
end

t.finish()
