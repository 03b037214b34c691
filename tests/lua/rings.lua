-- Tasks that wait for each other are links of a ring. One that could not yield there, and a queue that is collected before its
-- task has left it, must leave the ring whole (both were found as a spin and as a use of freed memory).
local t = require "check"
local P = t.psocket
local check, equal, fails, raises = t.check, t.equal, t.fails, t.raises

t.test("a wait that could not yield leaves the ring whole", function()
  for _, what in ipairs { "join", "pop" } do
    local s, q, log = P.scheduler(), P.queue(), {}
    local other = s:add(function() s:sleep(0.02) end)
    local function wait()
      if what == "join" then s:join(other) else log[#log + 1] = q:pop() end
    end
    s:add(function()
      for _ = 1, 3 do
        pcall(string.gsub, "x", "x", wait) -- a C function: nothing yields through it
      end
      s:sleep(0.03)
      q:push("own")
      log[#log + 1] = q:pop()
    end)
    s:add(function() s:sleep(0.01) end)
    s:run()
    t.equal(log[#log], "own")
  end
end)

t.test("a queue that only its waiting task knows goes with the task's coroutine", function()
  for _, how in ipairs { "closed", "resumed by others", "failed in others' hands", "removed" } do
    for _ = 1, 20 do
      local s, co = P.scheduler()
      s.errorfunc = function() end -- on a slow machine its time is over at once
      co = coroutine.create(function()
        P.queue():pop { timeout = 0.001 }
        if how == "failed in others' hands" then error "x" end
      end)
      s:add(co)
      if how == "removed" then
        s:remove(co)
      elseif how ~= "closed" then
        local due = P.now() + 0.002
        repeat until P.now() > due
        coroutine.resume(co)
      elseif coroutine.close then
        coroutine.close(co)
      end
      collectgarbage()
      collectgarbage()
      local junk = {}
      for i = 1, 50 do junk[i] = P.queue() end
      local woke = 0
      for _ = 1, 3 do
        s:add(function() s:sleep(0.0001) woke = woke + 1 end)
        s:step(0.001)
        s:remove(co)
        s:run()
      end
      t.equal(woke, 3)
    end
  end
end)

t.test("pop outside of tasks waits as long as it may", function()
  local q = P.queue()
  local began = P.now()
  fails("TIMEOUT", q:pop { timeout = 0.02 })
  check(P.now() - began > 0.015)
  raises("for ever", q.pop, q)
  q:push(5)
  equal(q:pop(), 5)
end)

t.test("a sleep that ends within a millisecond does not spin", function()
  local sched, n = P.scheduler(), 0
  sched:add(function() for _ = 1, 5 do sched:sleep(0.0045) end end)
  while sched:step(1) do n = n + 1 end
  check(n <= 10, n)
  local cpu = os.clock()
  sched:add(function() for _ = 1, 30 do sched:sleep(0.0101) end end)
  sched:run()
  check(os.clock() - cpu < 0.1, os.clock() - cpu)
end)

t.test("a scheduler that is taken out while it is made", function()
  local calm = t.eager()
  for k = 1, 30 do
    local sched, n = P.scheduler(), 0
    local function take()
      n = n + 1
      if n >= k then rawset(sched, "_core", nil) end
      if n < k + 3 then t.finalizer(take) end
    end
    t.finalizer(take)
    pcall(sched.add, sched, function() end)
  end
  calm()
  collectgarbage()
  check(true)
end)

t.test("a socket that only its waiting task knows goes with the task's coroutine", function()
  local waits = {
    recv = function(o) local _, b = t.psocket.pair(o) b:recv() end,
    send = function(o) local _, b = t.psocket.pair(o) b:send(("x"):rep(5000000)) end,
    accept = function(o) t.psocket.listen("127.0.0.1:0", o):accept() end,
    starttls = function(o) local a = t.psocket.pair(o) a:starttls "x" end,
    datagram = function(o) t.psocket.udpserver("127.0.0.1:0", o):recv() end,
  }
  for what, wait in pairs(waits) do
    for _, how in ipairs { "closed", "resumed by others", "removed" } do
      for _ = 1, 10 do
        local s = t.psocket.scheduler()
        local co = coroutine.create(function() wait { timeout = 0.002 } end)
        s:add(co)
        if how == "removed" then
          s:remove(co)
        elseif how == "closed" then
          if coroutine.close then coroutine.close(co) end
        else
          local due = t.psocket.now() + 0.5
          repeat until t.psocket.now() > due or not coroutine.resume(co) or coroutine.status(co) == "dead"
        end
        if how ~= "removed" then co = nil end
        collectgarbage()
        collectgarbage()
        local junk = {}
        for i = 1, 20 do junk[i] = t.psocket.queue() end
        local woke = 0
        s:add(function() s:sleep(0.0001) woke = woke + 1 end)
        s:run()
        t.equal(woke, 1, what .. " " .. how)
      end
    end
  end
end)

t.finish()
