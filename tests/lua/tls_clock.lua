-- A clock of the settings is asked for the time of tickets, too, which come when the settings may have been collected.
local t = require "check"
local psocket, check, equal = t.psocket, t.check, t.equal
local ca = t.pem("ca.pem")
local mine = { { chain = t.pem("ec.pem"), private_key = t.pem("ec.key") } }

local function collect()
  local junk = {}
  for _ = 1, 3 do collectgarbage() end
  for i = 1, 2000 do junk[i] = ("%d"):format(i):rep(8) end
  return junk
end

local function talk(go, start)
  local c, s = t.tcp()
  local got
  go(function()
    equal(s:starttls(mine), true)
    equal(s:recv(), "question")
    s:send("answer")
  end, function()
    equal(start(c), true)
    local junk = collect()
    c:send("question")
    got = c:recv()
    check(#junk == 2000)
  end)
  equal(got, "answer")
  c:close()
  s:close()
end

t.modes("options with a clock", function(go)
  talk(go, function(c) return (c:starttls("localhost", { ca = ca, clock = function() return os.time() end })) end)
end)

t.modes("settings with a clock", function(go)
  talk(go, function(c)
    return (c:starttls("localhost", psocket.tls { ca = ca, clock = function() return os.time() end }))
  end)
end)

t.finish()
