-- A handshake goes on although whoever began it is gone, and with him the settings and their clock.
local t = require "check"
local psocket, check, equal = t.psocket, t.check, t.equal
local ca = t.pem("ca.pem")
local mine = { { chain = t.pem("ec.pem"), private_key = t.pem("ec.key") } }

local function collect()
  local junk = {}
  for _ = 1, 5 do collectgarbage() end
  for i = 1, 2000 do junk[i] = ("%d"):format(i):rep(i % 60) end
  return #junk
end

local function goes_on(begin)
  local c, s = t.tcp()
  local sched = psocket.scheduler()
  begin(sched, function() c:starttls("localhost", { ca = ca, clock = function() return os.time() end }) end)
  check(collect() == 2000)
  sched:add(function() s:starttls(mine) end)
  local stop = psocket.now() + 5
  repeat sched:step(0.01) until not c:isopen() or c:istls() or psocket.now() > stop
  equal((c:geterror()), nil)
  equal(c:istls(), true)
  c:close()
  s:close()
end

t.test("a task that was removed", function()
  goes_on(function(sched, f)
    local co = sched:add(f)
    sched:step(0.01)
    sched:remove(co)
  end)
end)

t.test("a coroutine that nobody resumes", function()
  goes_on(function(_, f) coroutine.resume(coroutine.create(f)) end)
end)

t.finish()
