-- A download over TLS with a progress bar, in LÖVE's frame loop: love . https://example.org/file
--
-- In the folder, or the .love, lie: main.lua, conf.lua, http.lua, psocket.so (psocket.dll on Windows; built for LuaJIT) and
-- ca.pem, whom to trust: the system's bundle, which Debian keeps in /etc/ssl/certs/ca-certificates.crt.

-- A system loads libraries from files only, so the module is written out of the .love into the game's own folder.
local library = love.system.getOS() == "Windows" and "psocket.dll" or "psocket.so"
love.filesystem.write(library, love.filesystem.read(library))
package.cpath = love.filesystem.getSaveDirectory() .. "/" .. library .. ";" .. package.cpath
local ca = love.filesystem.read("ca.pem")

local psocket = require "psocket"
local http = require "http"

local sched = psocket.scheduler()
local download = { got = 0, text = "connecting" }
local longest = 0 -- the most that the network took of a frame, in seconds

function love.load(arguments)
  local url = arguments[1] or "https://example.org/"
  sched:add(function() -- looks as if it waited; it yields
    local answer, message = http.request {
      url = url, timeout = 600, tls = { ca = ca },
      sink = function(data) end, -- a game would write it to a file
      progress = function(got, total)
        download.got, download.total = got, total
        download.text = ("%d of %s bytes"):format(got, total or "?")
      end,
    }
    download.text = answer and "done, " .. download.text or message
    print(("%s; the network took at most %.1f ms of a frame"):format(download.text, longest * 1000))
    io.stdout:flush()
  end)
end

function love.update()
  local before = psocket.now()
  sched:step(0) -- all that can be done now; never waits
  longest = math.max(longest, psocket.now() - before)
end

function love.draw()
  local part = download.total and download.got / download.total or 0
  love.graphics.clear(0.1, 0.1, 0.15)
  love.graphics.setColor(0.25, 0.25, 0.3)
  love.graphics.rectangle("fill", 40, 80, 560, 40)
  love.graphics.setColor(0.2, 0.8, 0.3)
  love.graphics.rectangle("fill", 40, 80, 560 * part, 40)
  love.graphics.setColor(1, 1, 1)
  love.graphics.print(download.text, 40, 140)
end
