-- Coroutines that are no tasks: a wait that could not yield is forgotten once they wait for something else.
local t = require "check"
local P = t.psocket

for _, who in ipairs { "a coroutine", "a task", "nobody's coroutine" } do
  t.test("what a coroutine could not wait for is free: for " .. who, function()
    local a, far = P.pair { timeout = 0.01 }
    local b = P.pair()
    local co = coroutine.create(function()
      t.without_yield(a.recv, a)
      b:recv()
    end)
    t.check(coroutine.resume(co))
    t.equal(coroutine.status(co), "suspended")
    far:send "x"
    local got, message, why
    local function receive() got, message, why = a:recv() end
    if who == "nobody's coroutine" then
      receive()
    elseif who == "a task" then
      t.scheduled(receive)
    else
      t.homemade(receive)
    end
    t.equal(got, "x", why or message)
  end)
end

t.test("what one does wait for is not", function()
  local a, far = P.pair()
  local co = coroutine.create(function() return a:recv() end)
  t.check(coroutine.resume(co))
  t.fails("BUSY", a:recv())
  far:send "x"
  t.equal(select(2, coroutine.resume(co)), "x")
end)

t.test("while a handshake asks others are told BUSY", function()
  local ca, chain, key = t.pem "ca.pem", t.pem "ec.pem", t.pem "ec.key"
  if not ca then return end
  local a, b = P.pair { timeout = 2 }
  local s, asked, ok = P.scheduler(), false, nil
  local function decide(_, _, name)
    asked = true
    s:sleep(0.02)
    return name == nil
  end
  s:add(function() ok = a:starttls("localhost", { ca = ca, decide = t.pcall_yields and decide or nil }) end)
  s:add(function() b:starttls { { chain = chain, private_key = key } } end)
  s:add(function()
    while not asked and ok == nil do s:sleep(0.001) end
    if not asked then return end
    t.fails("BUSY", a:recv())
    t.fails("BUSY", a:send "x")
    t.fails("BUSY", a:read(1))
  end)
  s:run()
  t.equal(ok, true)
end)

t.finish()
