-- One limit, `timeout`: of the whole operation, and of a send since bytes last left. A silent client held a coroutine for
-- ever in starttls; a send to a peer that never reads ended after twice its time.
local t = require "check"
local psocket = t.psocket
local check, equal, fails = t.check, t.equal, t.fails

local peers = {} -- kept: a peer that is collected closes
local function tcp()
  local a, b = t.tcp()
  peers[#peers + 1] = a
  peers[#peers + 1] = b
  return a, b
end

local function lasted(before, seconds, what)
  local took = psocket.now() - before
  return check(took >= seconds - 0.02 and took < seconds + 2, (what or "") .. " took " .. took .. " s instead of " .. seconds)
end

local function identity()
  return { { chain = t.pem("ec.pem"), private_key = t.pem("ec.key") } }
end

local function suite(title, go, nap)
  t.test("starttls with a silent peer" .. title, function()
    go(function()
      local a = tcp()
      a:settimeout(0.2)
      local before = psocket.now()
      fails("TIMEOUT", a:starttls("localhost"))
      lasted(before, 0.2, "client")
      equal(a:isopen(), false)
    end)
    go(function()
      local _, b = tcp()
      b:settimeout(0.2)
      local before = psocket.now()
      fails("TIMEOUT", b:starttls(identity()))
      lasted(before, 0.2, "server")
    end)
  end)

  t.test("starttls with a peer that drips" .. title, function()
    local a, b = tcp()
    go(function()
      a:settimeout(0.25)
      local before = psocket.now()
      fails("TIMEOUT", a:starttls("localhost"))
      lasted(before, 0.25, "client")
    end, function()
      b:send("\22\3\3\16\0\2")
      for _ = 1, 12 do nap(0.05) if not b:send("\0") then break end end
    end)
  end)

  t.test("send to a peer that never reads" .. title, function()
    go(function()
      local a = tcp()
      a:settimeout(0.3)
      local before = psocket.now()
      fails("TIMEOUT", a:send(("x"):rep(30000000)))
      lasted(before, 0.3)
      before = psocket.now()
      fails("TIMEOUT", a:send("more" .. ("x"):rep(10000000)))
      lasted(before, 0.3, "again")
    end)
  end)

  t.test("send to a peer that reads slowly all the time" .. title, function()
    local a, b = tcp()
    go(function()
      a:settimeout(0.3)
      local before = psocket.now()
      equal(a:send(("x"):rep(20000000)), true)
      check(psocket.now() - before > 0.6, "it was to take longer")
      a:close()
    end, function()
      local got, before = 0, psocket.now()
      while got < 20000000 do
        local d = b:recv()
        if not d then break end
        got = got + #d
        while got / 20000000 > (psocket.now() - before) / 1.2 do nap(0.01) end
      end
      equal(got, 20000000)
    end)
  end)
end

suite(" (scheduler)", t.scheduled, t.nap)
suite(" (home-made)", t.homemade, t.nap)

t.test("bind: a silent client does not hold a coroutine for ever", function()
  local sched = psocket.scheduler()
  local l = assert(psocket.listen("127.0.0.1:0"))
  local _, port = l:getlocal()
  l:close()
  local ended
  local before = psocket.now()
  local server = assert(psocket.bind(sched, "127.0.0.1:" .. port, function(c)
    fails("TIMEOUT", c:starttls(identity()))
    ended = psocket.now() - before
  end, { timeout = 0.2 }))
  local client
  sched:add(function()
    client = assert(psocket.connect("127.0.0.1", port))
    before = psocket.now()
    sched:sleep(0.8)
  end)
  local till = psocket.now() + 1.5
  while not ended and psocket.now() < till do sched:step(0.1) end
  check(ended and ended >= 0.18 and ended < 0.7, "ended after " .. tostring(ended))
  if type(server) ~= "boolean" and server then server:close() end
  client:close()
end)
t.finish()
