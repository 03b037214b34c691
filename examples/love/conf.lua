function love.conf(t)
  t.identity = "psocket-download" -- names the folder that main.lua writes the module to
  t.window.title = "psocket in LÖVE"
  t.window.width, t.window.height = 640, 200
  t.modules.audio, t.modules.sound, t.modules.joystick, t.modules.physics, t.modules.video = false, false, false, false, false
end
