-- Tasks that wait for each other are links of a ring. One that could not yield there, and a queue that is collected before its
-- task has left it, must leave the ring whole (both were found as a spin and as a use of freed memory).
local t = require "check"
local P = t.psocket

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

t.finish()
