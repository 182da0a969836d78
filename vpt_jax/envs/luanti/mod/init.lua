-- Reports the player's state after every server step, and carries out the resets that the environment asks for.
-- Both go through files in the world's folder, each replaced as a whole: the mod sandbox allows no sockets.

local world = minetest.get_worldpath()
local folder = minetest.get_modpath("vpt_jax")
local names = dofile(folder .. "/items.lua")
local places = dofile(folder .. "/places.lua")

local MORNING = 0.3 -- of a day that starts at midnight
local SETTLING = 0.5 -- seconds in which a moved player comes to rest
local SPRINT = 1.3 -- Minecraft's: running is this much faster than walking

local LISTS = {"main", "craft", "craftresult"} -- craftresult: what the mouse holds, fresh from the craft grid

local episode, dug, deaths = -1, 0, 0 -- episode -1: none yet
local home -- where the episode began, and the dead come back
local dying = false

local function carried(player)
	local stacks = {}
	for _, list in ipairs(LISTS) do
		for _, stack in ipairs(player:get_inventory():get_list(list)) do
			table.insert(stacks, stack)
		end
	end
	return stacks
end

local function is_called(item, name)
	local group = name:match("^group:(.+)$")
	return item == name or group and minetest.get_item_group(item, group) > 0
end

local function count(stacks, wanted)
	local total = 0
	for _, stack in ipairs(stacks) do
		for _, name in ipairs(wanted) do
			if is_called(stack:get_name(), name) then
				total = total + stack:get_count()
			end
		end
	end
	return total
end

local function report(player)
	local pos = player:get_pos()
	local state = {
		x = pos.x, y = pos.y, z = pos.z, health = player:get_hp(), dug = dug, deaths = deaths, episode = episode,
		yaw = math.deg(player:get_look_horizontal()), pitch = math.deg(player:get_look_vertical()),
		slot = player:get_wield_index(),
	}
	local stacks = carried(player)
	for name, wanted in pairs(names) do
		state[name] = count(stacks, wanted)
	end
	minetest.safe_file_write(world .. "/state.json", minetest.write_json(state))
end

local function empty(player)
	for _, list in ipairs(LISTS) do
		player:get_inventory():set_list(list, {})
	end
end

local function place_at_home(player)
	player:set_detach() -- from a boat or a cart
	player:add_velocity(vector.multiply(player:get_velocity(), -1))
	player:set_pos(home)
	player:set_hp(player:get_properties().hp_max)
	player:set_breath(player:get_properties().breath_max)
end

local function come_back(player)
	for _, stack in ipairs(carried(player)) do
		minetest.item_drop(stack, nil, player:get_pos())
	end
	empty(player)
	place_at_home(player)
	deaths, dying = deaths + 1, false
end

local function begin(player, command)
	empty(player)
	for _, stack in ipairs(command.inventory) do
		player:get_inventory():add_item("main", stack)
	end
	minetest.close_formspec(player:get_player_name(), "")
	minetest.set_timeofday(MORNING)
	player:set_look_horizontal(0)
	player:set_look_vertical(0)
	place_at_home(player)
	minetest.after(SETTLING, function()
		player:set_hp(player:get_properties().hp_max)
		episode, dug, deaths, dying = command.episode, 0, 0, false
	end)
end

local function obey(player)
	local file = io.open(world .. "/reset.json", "r")
	if file then
		local command = minetest.parse_json(file:read("*a"))
		file:close()
		os.remove(world .. "/reset.json")
		places.find(PcgRandom(command.seed), function(place)
			home = place
			begin(player, command)
		end)
	end
end

local function set_pace(player)
	local control = player:get_player_control()
	local pace = control.aux1 and control.up and SPRINT or 1
	if player:get_physics_override().speed ~= pace then
		player:set_physics_override({speed = pace})
	end
end

minetest.register_globalstep(function()
	for _, player in ipairs(minetest.get_connected_players()) do -- there is one
		obey(player)
		if dying then
			come_back(player)
		end
		set_pace(player)
		report(player)
	end
end)

minetest.register_on_joinplayer(function(player)
	home = player:get_pos()
	player:hud_set_hotbar_itemcount(9)
	player:hud_set_hotbar_image("") -- the game's has eight slots
end)

-- These would be written on the first pictures.
minetest.send_join_message = function() end
minetest.get_server_status = function() end

minetest.register_on_dignode(function()
	dug = dug + 1
end)

-- The last blow leaves one point, so that the client never shows its death screen: it would wait for a click.
minetest.register_on_player_hpchange(function(player, change, reason)
	if reason.type == "set_hp" or player:get_hp() + change > 0 then
		return change
	end
	dying = true
	return 1 - player:get_hp()
end, true)

-- Its search field would take the keys, the one that closes the screen among them.
sfinv.override_page("mtg_craftguide:craftguide", {is_in_nav = function() return false end})
