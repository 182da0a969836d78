-- MineRL's item names, and what they are called in minetest_game: items, or "group:..." for all items of a group.
return {
	log = {"group:tree"},
	planks = {"group:wood"},
	stick = {"group:stick"},
	cobblestone = {"default:cobble", "default:desert_cobble", "default:mossycobble"},
	coal = {"default:coal_lump"},
	torch = {"default:torch"},
	furnace = {"default:furnace"},
	iron_ore = {"default:iron_lump"},
	iron_ingot = {"default:steel_ingot"},
	diamond = {"default:diamond"},
	wooden_pickaxe = {"default:pick_wood"},
	stone_pickaxe = {"default:pick_stone"},
	iron_pickaxe = {"default:pick_steel"},
	diamond_pickaxe = {"default:pick_diamond"},
	crafting_table = {}, -- minetest_game crafts everything in the inventory screen
}
