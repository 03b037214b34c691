-- What a wait that ended in an odd way must not leave behind: a note at the socket of a yield that failed, a link in the ring of
-- a queue that a finalizer brought back, pointers into a handshake that a finalizer ended.
local t = require "check"
local P = t.psocket

local waits = {
  recv = function(s) s:recv() end,
  read = function(s) s:read(7) end,
  send = function(s) s:send(("x"):rep(3000000)) end,
  starttls = function(s) s:starttls("localhost") end,
}
for name, wait in pairs(waits) do
  t.test(name .. " that could not yield is forgotten", function()
    local a, far = P.pair { timeout = 0.01 } -- where calls block when nothing can yield
    local left = P.scheduler()
    left:add(function()
      t.without_yield(wait, a)
      P.queue():pop { timeout = 0.001 }
    end)
    left:run()
    left:add(function() P.queue():pop { timeout = 0.02 } end) -- in the same place as the first
    local why
    left:add(function() why = select(3, a:recv { timeout = 0.001 }) end)
    left:run()
    if name ~= "starttls" then t.equal(why, "TIMEOUT") end
    left = nil -- luacheck: ignore
    t.collect()
    local junk = {}
    for i = 1, 20 do
      junk[i] = P.scheduler()
      junk[i]:add(function() end)
    end
    a:close()
    t.check(far)
  end)
end

for _, how in ipairs { "resumed to its end", "closed", "removed" } do
  t.test("a queue that a pool's finalizer brings back, and a task that is " .. how, function()
    for _ = 1, 10 do
      local pool, s = {}, P.scheduler()
      do
        local q = P.queue()
        q:push("before")
        t.finalizer(function() pool[1] = q end)
      end
      t.collect()
      if not pool[1] then return t.check(false, "no finalizer ran") end
      local co = coroutine.create(function()
        local q = pool[1]
        pool[1] = nil
        pcall(q.pop, q)
        pcall(q.pop, q, { timeout = 0.001 })
      end)
      pcall(s.add, s, co)
      if how == "closed" then
        if coroutine.close then coroutine.close(co) end -- luacheck: ignore
      elseif how == "removed" then
        s:remove(co)
      else
        local stop = P.now() + 0.1
        repeat coroutine.resume(co) until coroutine.status(co) == "dead" or P.now() > stop
      end
      co = nil -- luacheck: ignore
      t.collect()
      local junk, woke = {}, 0
      for i = 1, 30 do junk[i] = P.queue() end
      s:add(function() s:sleep(0.001) woke = woke + 1 end)
      for _ = 1, 50 do if woke == 1 then break end s:step(0.01) end
      t.equal(woke, 1)
    end
  end)
end

-- The question's strings lie in the handshake.
local ca, chain, key = t.pem "ca.pem", t.pem "ec.pem", t.pem "ec.key"
for _, asked in ipairs { "decide", "sign" } do
  t.test("a finalizer closes the socket whose handshake asks: " .. asked, function()
    if not ca then return end
    local client = P.tls { ca = ca, decide = asked == "decide" and function() return true end or nil }
    local server = P.tls { identities = { asked == "decide" and { chain = chain, private_key = key } or
                                          { chain = chain, sign = function() return nil end } } }
    for round = 1, 40 do
      local a, b = P.pair { timeout = 1 }
      local s, left, stop = P.scheduler(), round, false
      local victim = asked == "decide" and a or b
      s.errorfunc = function() end
      local function arm()
        t.finalizer(function()
          left = left - 1
          if left <= 0 then pcall(victim.close, victim) elseif not stop then arm() end
        end)
      end
      local calm = t.eager()
      s:add(function() a:starttls("localhost", client) end)
      s:add(function() b:starttls(server) end)
      arm()
      for _ = 1, 30 do if not s:step(0.01) then break end end
      stop = true
      calm()
      a:close()
      b:close()
      s:run()
    end
    t.check(true)
  end)
end

t.finish()
